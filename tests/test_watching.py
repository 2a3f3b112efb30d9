"""Files as they arrive: each once, each whole, until somebody stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import handmade
import pytest
from PIL import Image

from fieldkit.errors import UsageError
from fieldkit.field.answers.arrivals import Clock, groups, watch
from fieldkit.field.engine.training import train
from fieldkit.field.models import confidence, exporting

BUNDLE = handmade.bundle(probe=60)
MODEL = confidence.calibrate(exporting.export(train(BUNDLE, threads=1), BUNDLE), BUNDLE)
SAMPLES = handmade.images(5, seed=8)


class Play:
    """A clock whose every sleep is the next line of a play: what happens to the folder meanwhile."""

    def __init__(self, *lines: Callable[[], object]) -> None:
        self.lines = list(lines)
        self.time = 0.0
        self.clock = Clock(lambda: self.time, self.sleep)

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds
        if self.lines:
            self.lines.pop(0)()


def nothing() -> None:
    """A line in which nothing happens."""


def seen(folder: Path, play: Play, idle: float = 3.0) -> list[tuple[float, list[str]]]:
    """When which files arrive."""
    found = watch(folder, settle=1.0, poll=0.5, idle=idle, clock=play.clock)
    return [(play.time, [str(path.relative_to(folder)) for path in paths]) for paths in found]


def test_a_file_comes_once_when_it_has_stopped_growing(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    grow = [lambda size=size: file.write_bytes(bytes(size)) for size in (1, 2, 3)]
    # Written from 0.5 to 1.5; looked at each half second.
    assert seen(tmp_path, Play(*grow)) == [(2.5, ["a.png"])]


def test_what_is_there_comes_first_and_groups_arrive_together(tmp_path: Path) -> None:
    for name in ("b.png", "sub/a.npy", "note.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    late = [nothing, nothing, nothing, (tmp_path / "c.png").touch]
    assert seen(tmp_path, Play(*late)) == [(1.0, ["b.png", "sub/a.npy"]), (3.0, ["c.png"])]


def test_a_file_that_changes_or_comes_again_arrives_again(tmp_path: Path) -> None:
    file = tmp_path / "latest.jpg"
    file.write_bytes(b"1")

    def replaced() -> None:
        other = tmp_path / "other.tmp"
        other.write_bytes(b"2")
        os.utime(other, ns=(0, file.stat().st_mtime_ns))
        other.rename(file)

    play = Play(
        nothing, nothing, replaced, nothing, nothing, nothing, file.unlink, nothing, lambda: file.write_bytes(b"2")
    )
    assert [name for _, names in seen(tmp_path, play) for name in names] == ["latest.jpg"] * 3


def test_it_ends_when_idle_but_not_while_a_file_grows(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    grow = [lambda size=size: file.write_bytes(bytes(size)) for size in range(1, 20)]
    play = Play(*grow)
    assert seen(tmp_path, play, idle=2.0) == [(10.5, ["a.png"])]
    assert play.time == 12.5


def test_a_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    folder, away = tmp_path / "usb", tmp_path / "away"
    folder.mkdir()
    (folder / "a.png").touch()
    play = Play(nothing, nothing, lambda: folder.rename(away), lambda: away.rename(folder))
    # As of a network that is not there for a while.
    assert seen(folder, play) == [(1.0, ["a.png"])]


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    for place, found in (("none", "nothing"), ("a.png", "a file")):
        with pytest.raises(UsageError, match=found):
            watch(tmp_path / place)


def test_files_that_are_named_come_before_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "in").mkdir()
    assert [list(each) for each in groups([tmp_path / "a.png"], tmp_path / "in", idle=0)] == [[tmp_path / "a.png"]]
    assert list(groups([], None)) == []


@contextmanager
def watching(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """``fieldkit predict --watch incoming`` as a process in a folder."""
    (folder / "model.onnx").write_bytes(MODEL)
    (folder / "incoming").mkdir()
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "fieldkit",
        "predict",
        "model.onnx",
        "--watch",
        "incoming",
        *options,
    ]
    process = subprocess.Popen(
        [*command, *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens in another process."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("waited a minute for nothing")


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_watches(tmp_path: Path, ending: signal.Signals) -> None:
    answers = tmp_path / "answers.jsonl"
    with watching(tmp_path, "-o", "answers.jsonl") as process:
        for index in range(2):
            part = tmp_path / "part.tmp"
            Image.fromarray(SAMPLES.images[index, 0]).save(part, "PNG")
            part.rename(tmp_path / "incoming" / f"{index}.png")
            until(lambda count=index + 1: answers.exists() and len(answers.read_bytes().splitlines()) == count)
        (tmp_path / "incoming" / "2.png").write_bytes(b"broken")
        until(lambda: len(answers.read_bytes().splitlines()) == 3)
        process.send_signal(ending)
        _, said = process.communicate(timeout=60)
    found = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [each["file"] for each in found] == [f"incoming/{index}.png" for index in range(3)]
    assert [each["class"] for each in found] == [f"kind {target}" for target in SAMPLES.targets[:2]] + [None]
    # Stopping is no failure; what could not be read is.
    assert process.returncode == 7
    assert "1 of 3 files" in said
    assert "answers.jsonl: 2 images answered" in said


def test_a_process_that_watches_ends_well(tmp_path: Path) -> None:
    with watching(tmp_path, "--quiet") as process:
        Image.fromarray(SAMPLES.images[0, 0]).save(tmp_path / "incoming" / "0.png")
        assert process.stdout is not None
        # The line is there as soon as it is known.
        assert process.stdout.readline().startswith("incoming/0.png\tkind ")
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (0, "", "")


def test_a_process_that_ends_when_idle(tmp_path: Path) -> None:
    with watching(tmp_path, "--idle", "0.5") as process:
        out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (0, "", "")
