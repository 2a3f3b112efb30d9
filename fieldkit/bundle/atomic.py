"""Files that are either wholly written or not touched: temporary file, flush, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from fieldkit.errors import FieldkitError, ResourceError, UsageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR}


def write_atomically(path: str | Path, data: bytes, mode: int | None = None) -> None:
    """Write ``data`` to ``path``; see ``writing_atomically``."""
    with writing_atomically(path, mode) as file, explaining(path):
        file.write(data)


@contextmanager
def writing_atomically(path: str | Path, mode: int | None = None) -> Iterator[IO[bytes]]:
    """A file to write to, which takes the place of ``path`` when the block ends; until then what stood there stays.

    mode: the file's permissions, from the first byte on; None keeps an existing file's.  A link is followed.

    Raises UsageError if the folder is missing or may not be written to, ResourceError if the disk is full (writes in
    the block themselves belong into ``explaining``).  The temporary file is removed if anything is raised, here or in
    the block.
    """
    target = check_writable(path)
    # In the same folder, since a rename is only atomic within one file system.
    part = target.parent / f".fieldkit-{secrets.token_hex(8)}.part"
    try:
        with explaining(path):
            if mode is None and os.path.exists(target):
                mode = target.stat().st_mode & 0o777
            # Nobody may open a private file in the moment before its permissions are set.
            first = 0o666 if mode is None else 0o600
            file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, first), "wb")
        try:
            with explaining(path):
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
            yield file
            with explaining(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            # After a failed write, closing tries once more what is left.
            with suppress(OSError):
                file.close()
        with explaining(path):
            os.replace(part, target)
            sync_folder(target.parent)
    finally:
        with suppress(OSError):
            part.unlink()


def check_writable(path: str | Path) -> Path:
    """The real place that ``path`` names, links followed.  Raises UsageError if no file can be written there.

    A command that works for long calls this before it starts.
    """
    target = Path(os.path.realpath(path))
    if not os.path.isdir(target.parent):
        raise UsageError(
            "cannot write there: its folder does not exist", where=path, remedy=f"make it: mkdir -p {target.parent}"
        )
    # os.path answers no where pathlib would raise: for a name that is too long, say.
    if os.path.exists(target) and not os.path.isfile(target):
        found = "a folder" if os.path.isdir(target) else "a device or pipe"
        raise UsageError("cannot write there", where=path, found=found, expected="the name of a file")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise UsageError("cannot write there: its folder is read-only for you", where=path, remedy="choose another")
    return target


def check_apart(written: Mapping[str, Path | None], read: Mapping[str, Path | None] | None = None) -> None:
    """Raise UsageError where a file that is to be written is also read, or also written for something else.

    written, read: what each file is, in a word, and where; None for one that is not there.  Links are followed.
    A command that loses a file this way has lost what it cannot make again.
    """
    taken = {os.path.realpath(path): what for what, path in (read or {}).items() if path is not None}
    for what, path in written.items():
        if path is None:
            continue
        other = taken.setdefault(os.path.realpath(path), what)
        if other != what:
            raise UsageError(
                f"the {what} would replace the {other}", where=path, remedy=f"name another file for the {what}"
            )


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file's own bytes are safe by now.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def explaining(path: str | Path) -> Iterator[None]:
    """Tell the user what a failed write to ``path`` means."""
    try:
        yield
    except OSError as error:
        raise explained(error, path) from error


def explained(error: OSError, path: str | Path) -> FieldkitError:
    """What a failed write means to the user: ResourceError or UsageError."""
    if error.errno in _FULL:
        return ResourceError(
            "no space left to write the file", where=path, remedy="free some space, or write elsewhere"
        )
    if error.errno in _REFUSED:
        return UsageError(f"cannot write there: {error.strerror}", where=path, remedy="choose another place")
    return ResourceError(f"writing failed: {error.strerror}", where=path, remedy="check the disk, or write elsewhere")
