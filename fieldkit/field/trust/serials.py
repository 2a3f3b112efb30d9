"""The newest issue of each bundle that was opened here: an older one is a replay, and is refused."""

from __future__ import annotations

from dataclasses import dataclass

from fieldkit.bundle import documents
from fieldkit.bundle.seal import Statement
from fieldkit.errors import TrustError, UsageError
from fieldkit.field.trust.store import Store

FILE = "serials.json"
_FORM = {"seen": documents.Each({"serial": int, "digest": str})}


@dataclass(frozen=True)
class Seen:
    """An issue of a bundle that was opened here.  digest: SHA-256 of its payload, hex."""

    serial: int
    digest: str


class Serials:
    """What the store remembers of bundles, by their names."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def seen(self) -> dict[str, Seen]:
        """The newest issue of each name.  Raises TrustError where the record cannot be relied on."""
        document = self.store.read(FILE, _FORM) or {"seen": {}}
        return {name: Seen(each["serial"], each["digest"]) for name, each in document["seen"].items()}

    def check(self, statement: Statement, digest: str | None, where: object) -> None:
        """Raise TrustError if a newer issue of the bundle was opened here, or another one of the same serial.

        digest: the bundle's; None before it is decrypted.
        """
        seen = self.seen().get(statement.name)
        if seen is None or statement.serial > seen.serial:
            return
        if statement.serial == seen.serial and digest in (None, seen.digest):
            return
        older = statement.serial < seen.serial
        raise TrustError(
            "an older issue than one that was opened here" if older else "two issues of one serial",
            where=where,
            found=f"{statement.name!r}, serial {statement.serial}" + ("" if older else f", digest {digest}"),
            expected=f"serial {seen.serial} or newer" if older else f"digest {seen.digest}, or a newer serial",
            remedy=f"get the newest; or, if this one is meant: fieldkit trust forget {statement.name!r}",
        )

    def record(self, name: str, serial: int, digest: str) -> None:
        """Remember that this issue was opened.  Raises UsageError or ResourceError if that cannot be written."""
        if name in (seen := self.seen()) and seen[name].serial >= serial:
            return
        with self.store.locked():
            seen = self.seen()
            if name not in seen or seen[name].serial < serial:
                self._save(seen | {name: Seen(serial, digest)})

    def forget(self, name: str) -> Seen:
        """Take any serial of this name again; what was remembered.  Raises UsageError for a name that is not known."""
        with self.store.locked():
            seen = self.seen()
            if name not in seen:
                listed = ", ".join(map(repr, seen)) or "none"
                raise UsageError("no bundle of this name was opened here", where=name, expected=f"one of: {listed}")
            self._save({each: found for each, found in seen.items() if each != name})
        return seen[name]

    def _save(self, seen: dict[str, Seen]) -> None:
        self.store.write(FILE, {"seen": {name: vars(each) for name, each in seen.items()}})
