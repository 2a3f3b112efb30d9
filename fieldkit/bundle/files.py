"""A file's bytes, read once and no more of them than its kind may have."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fieldkit.errors import UsageError

MAX_FILE = 512 * 2**20
"""Bytes of a whole bundle."""


def read_bytes(path: str | Path, limit: int = MAX_FILE, what: str = "bundle") -> bytes:
    """The first ``limit`` + 1 bytes of the file, so that one byte too many shows that it is too large.

    what: the kind of file that messages name.  Raises UsageError if there is no such file or it cannot be read.
    """
    try:
        # Without waiting: opening a pipe that nobody writes to would never return.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise UsageError("not a file", where=path, found="a device or pipe", expected=f"a {what}")
            # Python makes room for all that is asked for: no more of it than the file says, which may be too little.
            data = file.read(min(limit, status.st_size) + 1)
            return data if len(data) <= status.st_size else data + file.read(limit + 1 - len(data))
    except FileNotFoundError as error:
        raise UsageError(f"no such {what}", where=path, remedy="check the path") from error
    except IsADirectoryError as error:
        raise UsageError(f"not a {what}", where=path, found="a folder", remedy="name the file itself") from error
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=path, remedy="check the permissions") from error
