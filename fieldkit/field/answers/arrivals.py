"""Files as they arrive in a folder, each once it is whole.

The folder and its sub-folders are looked at again and again (no file system needs to support anything for that, not
even a network's).  A file is whole when size, time and inode stayed the same between two looks at least ``settle``
seconds apart.  A file that changes after it was handed out arrives once more.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fieldkit.errors import UsageError
from fieldkit.field.images.finding import find_images, walk

# Of a file: its size in bytes, when it was changed last, in nanoseconds, and its inode.
Version: TypeAlias = "tuple[int, int, int]"


@dataclass(frozen=True)
class Clock:
    """Seconds that pass, and how to let them pass; a test brings its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def groups(places: Sequence[Path], folder: Path | None, idle: float | None = None) -> Iterator[Iterable[Path]]:
    """The files at ``places`` (``find_images``), then those of a watched ``folder`` as they arrive (``watch``)."""
    if places:
        yield find_images(places)
    if folder is not None:
        yield from watch(folder, idle=idle)


def watch(
    folder: Path,
    *,
    settle: float = 1.0,
    poll: float = 0.5,
    idle: float | None = None,
    clock: Clock = Clock(),
) -> Iterator[list[Path]]:
    """The image and array files in ``folder``, what is there first, in lists of those that became whole together.

    settle: seconds for which a file must not change.  poll: seconds between two looks, or more where a look takes long.
    idle: end when none has arrived for so many seconds; None goes on until the caller stops.
    Memory grows with the files in the folder, not with those that came through it.  Raises UsageError for no folder.
    """
    if not os.path.isdir(folder):
        found = "a file" if os.path.exists(folder) else "nothing"
        raise UsageError("no folder to watch", where=folder, found=found, remedy="make it, or check the path")
    return _arrivals(folder, settle, poll, idle, clock)


def _arrivals(folder: Path, settle: float, poll: float, idle: float | None, clock: Clock) -> Iterator[list[Path]]:
    handed: dict[str, Version] = {}
    growing: dict[str, tuple[Version, float]] = {}
    last = clock.now()
    while True:
        look = clock.now()
        found, complete = _versions(folder)
        if complete:
            # What was taken away may come again.
            handed = {path: version for path, version in handed.items() if path in found}
            growing = {path: seen for path, seen in growing.items() if path in found}
        whole = []
        for path, version in found.items():
            if handed.get(path) == version:
                continue
            seen, since = growing.get(path, (None, look))
            if seen != version:
                growing[path] = (version, look)
            elif look - since >= settle:
                whole.append(path)
                del growing[path]
                handed[path] = version
        if whole:
            yield [Path(path) for path in whole]
            last = clock.now()
        elif not growing.keys() & found.keys() and idle is not None and look - last >= idle:
            return
        # A folder of very many files must not keep a processor busy.
        clock.sleep(max(poll, clock.now() - look if not whole else 0.0))


def _versions(folder: Path) -> tuple[dict[str, Version], bool]:
    """The files that are there with their versions, and whether all folders could be listed.

    A network or a memory card may be gone for a while, and its files are none the newer when it is back.
    """
    versions, complete = {}, True
    for path in walk(folder):
        try:
            found = path.stat()
        except OSError:
            complete = complete and path != folder
            continue
        if stat.S_ISREG(found.st_mode):
            versions[str(path)] = (found.st_size, found.st_mtime_ns, found.st_ino)
        elif stat.S_ISDIR(found.st_mode):
            complete = False
    return versions, complete
