"""Every error that fieldkit raises on purpose, and the exit code that each one gives the command line.

    FieldkitError                1   a bug, unless a subclass says otherwise
    ├── UsageError               2   the call is wrong: an option, a name, a path
    ├── TrustError               3   the bundle's origin is not trusted
    ├── BundleError              4
    │   ├── DamagedBundle            bytes are missing, changed, or were never a bundle
    │   └── IncompatibleBundle       a sound bundle that this version or this command cannot use
    ├── ProgramError             4   a program breaks the program contract, or a model cannot be compiled to one
    │   └── Diverged                 a training whose loss is no longer a number
    ├── ResourceError            5   not enough memory, disk or time
    ├── Interrupted              6   stopped by the user; the message says how to resume
    └── DataError                7   the user's data; carries every fault found, not only the first

A message says what is wrong, where, what was found, what was expected, and what to do.
"""

from __future__ import annotations

from collections.abc import Sequence

# The remedy wherever a library of HQ's is missing.
INSTALL_HQ = "install it: pip install 'torch==2.13.0' && pip install 'fieldkit[hq]'; in a clone: pip install '.[hq]'"


class FieldkitError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    message: what is wrong, in one sentence without a full stop.
    where: the file, dataset, option or graph node that is at fault.
    found, expected: the two sides of a comparison that failed.
    remedy: what the reader should do next.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        remedy: str | None = None,
    ) -> None:
        self.message = message
        self.where = None if where is None else str(where)
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.message if self.where is None else f"{self.where}: {self.message}"
        if self.found is not None:
            text += f"; found {self.found}"
        if self.expected is not None:
            text += f"; expected {self.expected}"
        if self.remedy is not None:
            text += f"\n  remedy: {self.remedy}"
        return text


class UsageError(FieldkitError):
    """The call itself is wrong: an unknown name, an option out of range, a path that is not there."""

    exit_code = 2


class TrustError(FieldkitError):
    """The bundle's origin is not trusted on this device."""

    exit_code = 3


class BundleError(FieldkitError):
    """A bundle that cannot be used; see the two subclasses."""

    exit_code = 4


class DamagedBundle(BundleError):
    """Bytes are missing or changed, or the file never was a bundle."""


class IncompatibleBundle(BundleError):
    """A sound bundle that this version of fieldkit, or this command, cannot use."""


class ProgramError(FieldkitError):
    """A program breaks the program contract, or a model cannot be compiled to one."""

    exit_code = 4


class Diverged(ProgramError):
    """A training whose loss or weights are no longer finite numbers."""


class ResourceError(FieldkitError):
    """Not enough memory, disk or time."""

    exit_code = 5


class Interrupted(FieldkitError):
    """Stopped by the user; what was reached so far is kept and the message says how to go on."""

    exit_code = 6


class DataError(FieldkitError):
    """The user's data is at fault.

    ``faults`` lists every fault found, one sentence each, so that a data set is mended in one pass.
    """

    exit_code = 7

    def __init__(self, where: object, faults: Sequence[str], *, remedy: str | None = None) -> None:
        self.faults = tuple(faults)
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        listed = "".join(f"\n  - {fault}" for fault in self.faults)
        super().__init__(f"{count} in the data{listed}", where=where, remedy=remedy)
