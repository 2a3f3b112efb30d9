"""The user's config folder as fieldkit keeps it: small private JSON files that are read strictly and written whole.

What cannot be read, or can be written by others, is never taken for an absent file.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fieldkit.bundle import documents
from fieldkit.bundle.atomic import explained, write_atomically
from fieldkit.bundle.files import read_bytes
from fieldkit.errors import DamagedBundle, TrustError, UsageError

TRUST = "trust.json"
"""There is a trust store as soon as the folder holds this."""
VERSION = 1
MAX_STORED = 16 * 2**20


class Store:
    """The files in one folder; None takes the user's config folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or config_folder()

    def path(self, name: str) -> Path:
        return self.folder / name

    def holds(self, name: str) -> bool:
        """Whether there is anything at all of this name.  Raises TrustError where that cannot be told."""
        try:
            os.lstat(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            # A link to where nothing is, such as a disk that is not there now, is no sign that nobody was trusted.
            if os.path.islink(self.folder) and not os.path.exists(self.folder):
                raise unreliable(self.folder, "a link to a folder that is not there") from None
            return False
        except OSError as error:
            raise unreliable(self.path(name), str(error.strerror)) from error
        return True

    def read(self, name: str, form: Mapping[str, Any]) -> dict[str, Any] | None:
        """The JSON object in a file; None where there is none.

        form: as in ``bundle.documents``, without the version.  Raises TrustError for a file that is not as it was
        written, or that others can change.
        """
        if not self.holds(name):
            return None
        path = self.path(name)
        for each in (self.folder, path):
            _check_private(each)
        try:
            document = documents.decode(read_bytes(path, MAX_STORED, "trust store"), str(path))
        except (DamagedBundle, UsageError) as error:
            raise unreliable(path, error.message) from error
        faults = list(documents.faults(document, {"version": int, **form}, "document"))
        if faults or document["version"] != VERSION:
            raise unreliable(path, "; ".join(faults) or f"version {document['version']}")
        return document

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a file, mode 0600: whole, or not at all.  Raises UsageError or ResourceError."""
        data = documents.encode({"version": VERSION, **document}) + b"\n"
        write_atomically(self.path(name), data, mode=0o600)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folder, made (mode 0700) if it is not there, for this process alone."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, self.folder) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def config_folder() -> Path:
    """Where the user's trust store is.  Raises UsageError if the user has no home."""
    chosen = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG base directory specification: what is not absolute is to be ignored.
    if os.path.isabs(chosen):
        return Path(chosen) / "fieldkit"
    try:
        return Path.home() / ".config" / "fieldkit"
    except RuntimeError as error:
        raise UsageError("no home folder, so no trust store", remedy="set XDG_CONFIG_HOME") from error


def _check_private(path: Path) -> None:
    """Only the user, or root, may be able to write there."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise unreliable(path, str(error.strerror)) from error
    if found.st_mode & 0o022:
        raise unreliable(
            path, f"mode {found.st_mode & 0o777:04o}, so that others may write there", f"chmod go-w {path}"
        )
    if found.st_uid not in (0, os.geteuid()):
        raise unreliable(path, f"owned by user {found.st_uid}", "chown it, or set XDG_CONFIG_HOME to your own")


def unreliable(path: Path, reason: str, remedy: str | None = None) -> TrustError:
    """The error for a store that says nothing for certain."""
    remedy = remedy or "restore it, or set the device up anew (docs/seal.md)"
    return TrustError("a trust store that cannot be relied on", where=path, found=reason, remedy=remedy)
