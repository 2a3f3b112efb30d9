"""Which files a run takes: each once, in order, whatever links, hidden things and closed folders lie about."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.errors import UsageError
from fieldkit.field.images import finding
from fieldkit.field.images.finding import find_images


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder: Path, *places: str) -> list[str]:
    """What is found at places in a folder, relative to it."""
    return [str(path.relative_to(folder)) for path in find_images([folder / place for place in places])]


NAMES = st.sampled_from(["a", "b.png", "B.PNG", "c.txt", ".d.png", ".e", "f.npy", "g.tif", "10.jpg", "9.jpg", "h.png"])


@settings(max_examples=60)
@given(paths=st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12))
def test_the_order_is_that_of_sorted_paths(paths: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("found")
    for parts in paths:
        path = folder.joinpath(*parts)
        if not path.exists() and all(not above.is_file() for above in path.parents):
            touch(path)
    wanted = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix.lower() in finding.SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    assert list(find_images([folder])) == (wanted or [folder])


def test_each_file_comes_once(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a/1.png", "a/2.png", "a/b/3.png", "a/note.md")))
    assert found(tmp_path, "a", "a", "a/b", "a/1.png") == ["a/1.png", "a/2.png", "a/b/3.png"]
    assert found(tmp_path, "a/2.png", "a/2.png", "a") == ["a/2.png", "a/1.png", "a/b/3.png"]
    assert found(tmp_path, "a/b", "a") == ["a/b/3.png", "a/1.png", "a/2.png"]
    # What a folder does not give may be named.
    assert found(tmp_path, "a/b", "a/note.md") == ["a/b/3.png", "a/note.md"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "far" / "1.png", tmp_path / "a" / "2.png")
    (tmp_path / "a" / "circle").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "far").symlink_to(tmp_path / "far")
    (tmp_path / "a" / "far again").symlink_to(tmp_path / "far")
    (tmp_path / "a" / "alias.png").symlink_to(tmp_path / "a" / "2.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "a" / "self.png").symlink_to(tmp_path / "a" / "self.png")
    # Links that lead nowhere are found, so that their owner hears of them.
    names = ["a/2.png", "a/alias.png", "a/far/1.png", "a/gone.png", "a/self.png"]
    assert found(tmp_path, "a") == names
    assert found(tmp_path, "a", "a/circle/2.png") == names


def test_hidden_things_are_passed_over_unless_named(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in (".git/1.png", "._2.png", "3.png")))
    assert found(tmp_path, ".") == ["3.png"]
    assert found(tmp_path, ".git", "._2.png") == [".git/1.png", "._2.png"]


def test_folders_that_are_empty_or_closed_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "b" / "1.png", tmp_path / "closed" / "2.png")

    def scandir(path: str) -> Iterator[os.DirEntry[str]]:
        if path.endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    assert found(tmp_path, "empty", ".") == ["empty", "b/1.png", "closed"]


def test_folders_may_be_nested_deeper_than_calls(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 300)
    touch(deep / "1.png")
    limit, depth = sys.getrecursionlimit(), len(inspect.stack())
    sys.setrecursionlimit(depth + 200)
    try:
        assert list(find_images([tmp_path])) == [deep / "1.png"]
    finally:
        sys.setrecursionlimit(limit)


def test_a_missing_place_is_kept_among_others_and_refused_alone(tmp_path: Path) -> None:
    touch(tmp_path / "1.png")
    assert found(tmp_path, "none.png", "1.png", "none.png") == ["none.png", "1.png"]
    with pytest.raises(UsageError, match="no such file"):
        find_images([tmp_path / "none.png", tmp_path / ("x" * 300)])


def test_names_are_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\n, .png")
    touch(tmp_path / name)
    assert found(tmp_path, ".") == [name]
