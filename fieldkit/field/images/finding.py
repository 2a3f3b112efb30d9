"""The image files at a number of places: files that are named, and what lies in folders and their sub-folders.

Files come one by one, in the order of their names, so that a folder of any size takes no memory but for the names in
it.  Hidden files and folders are passed over unless they are named; links are followed, and each folder is entered
once, however many links lead to it; a file that is named twice, or named and in a folder, comes once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from fieldkit.errors import UsageError
from fieldkit.field.images import npy
from fieldkit.field.images.imagery import SUFFIXES as IMAGE_SUFFIXES

SUFFIXES = (*IMAGE_SUFFIXES, *npy.SUFFIXES)

# What tells a folder, or a file in one, from all others, whatever path leads to it.
Identity: TypeAlias = "tuple[int | str, ...]"


def find_images(places: Sequence[Path]) -> Iterator[Path]:
    """The files named in ``places``, and the image and array files in its folders, each once.

    A place that is missing is kept, and so is a folder that is empty or cannot be listed, so that their owner hears of
    it.  Raises UsageError if there is nothing at any of the places.
    """
    # os.path answers no where pathlib would raise: for a name that is too long, say.
    if not any(os.path.exists(place) for place in places):
        raise UsageError("no such file", where=", ".join(map(str, places)), remedy="check the path")
    return _found(places)


def _found(places: Sequence[Path]) -> Iterator[Path]:
    named: set[Identity] = set()
    entered: set[Identity] = set()
    for place in places:
        if os.path.isdir(place):
            yield from _unnamed(place, entered, named)
            continue
        parent, name = _identity(place.parent), place.name
        if (*parent, name) in named or (parent in entered and _is_wanted(name)):
            continue
        named.add((*parent, name))
        yield place


def _unnamed(place: Path, entered: set[Identity], named: set[Identity]) -> Iterator[Path]:
    """What ``walk`` finds, but for the files that came before because they were named."""
    if _identity(place) in entered:
        return
    empty = True
    for path in walk(place, entered):
        empty = False
        if not named or (*_identity(path.parent), path.name) not in named:
            yield path
    if empty:
        yield place


def walk(folder: Path, entered: set[Identity] | None = None) -> Iterator[Path]:
    """The image and array files below ``folder``, and the folders there that cannot be listed.

    entered: folders that are passed over; those that are entered are added.
    """
    entered = set() if entered is None else entered
    # Not recursive: folders may be nested deeper than Python's calls.
    levels: list[Iterator[tuple[str, bool]]] = [iter([(str(folder), True)])]
    while levels:
        path, is_folder = next(levels[-1], ("", False))
        if not path:
            levels.pop()
        elif not is_folder:
            yield Path(path)
        elif (identity := _identity(Path(path))) not in entered:
            entered.add(identity)
            members = _members(path)
            if members is None:
                yield Path(path)
            else:
                levels.append(_joined(path, members))


def _joined(folder: str, members: Sequence[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """The paths of a folder's members, made one by one: a folder may hold millions."""
    for name, inner in members:
        yield os.path.join(folder, name), inner


def _members(folder: str) -> list[tuple[str, bool]] | None:
    """The names in a folder that matter, in order, and whether each is a folder; None if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            names = [(each.name, _is_folder(each)) for each in entries if not each.name.startswith(".")]
    except OSError:
        return None
    return sorted(each for each in names if each[1] or _is_wanted(each[0]))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself, for instance, which is then said to be no such file.
        return False


def _is_wanted(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _identity(folder: Path) -> Identity:
    try:
        found = folder.stat()
    except OSError:
        return (os.path.abspath(folder),)
    return found.st_dev, found.st_ino
