"""Whom a device trusts: its keys, what a bundle must show, and the device's own key.

They lie in the user's config folder, ``$XDG_CONFIG_HOME/fieldkit`` or ``~/.config/fieldkit`` (mode 0700):

    trust.json     keys, revoked ids, how many signatures a bundle needs, whether the store is locked (mode 0600)
    serials.json   the newest issue of each bundle that was opened here (mode 0600)
    device.key     the device's own private key, if it has one (mode 0600)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fieldkit.bundle.atomic import write_atomically
from fieldkit.bundle.files import read_bytes
from fieldkit.bundle.keys import MAX_KEY_FILE, Passphrase, PrivateKey, PublicKey, key_id, read_private_key
from fieldkit.bundle.seal import Seal
from fieldkit.errors import TrustError, UsageError
from fieldkit.field.trust.revocation import is_id, read_revoked
from fieldkit.field.trust.serials import Seen, Serials
from fieldkit.field.trust.store import TRUST, Store, unreliable

DEVICE_KEY = "device.key"
_FORM = {"keys": [str], "revoked": [str], "require": int, "locked": bool}


@dataclass(frozen=True)
class Signer:
    """Who signed a file.  name: None for a key that is not known here."""

    id: str
    name: str | None
    trusted: bool
    revoked: bool

    def __str__(self) -> str:
        kind = "revoked" if self.revoked else "trusted" if self.trusted else "unknown"
        return f"{kind} key {self.id}" + (f" ({self.name})" if self.name else "")


@dataclass(frozen=True)
class Policy:
    """What a bundle must show.

    keys: those that are trusted; one that is also in ``revoked`` (ids) counts for nothing.
    require: how many different trusted keys must have signed.
    locked: bundles without these signatures are never taken, and the policy only becomes stricter.
    """

    keys: tuple[PublicKey, ...] = ()
    revoked: frozenset[str] = frozenset()
    require: int = 1
    locked: bool = False

    def signers(self, seal: Seal) -> tuple[Signer, ...]:
        """Who signed, in the eyes of this policy: each key once, in the file's order."""
        names = {each.signing: each.name for each in self.keys}
        found = []
        for signing in seal.signers:
            revoked = key_id(signing) in self.revoked
            found.append(Signer(key_id(signing), names.get(signing), signing in names and not revoked, revoked))
        return tuple(found)

    def check(self, seal: Seal, where: object, require: int | None = None) -> tuple[str, ...]:
        """The ids of the trusted keys that signed.

        require: in place of the policy's own.  Raises TrustError if they are fewer.
        """
        require = require or self.require
        found = self.signers(seal)
        trusted = tuple(each.id for each in found if each.trusted)
        if len(trusted) >= require:
            return trusted
        wanted = "a signature of a trusted key" if require == 1 else f"signatures of {require} different trusted keys"
        remedy = "have it signed: fieldkit sign; or trust the key that did: fieldkit trust add NAME.pub"
        if not self.keys:
            remedy = "no key is trusted on this device yet: fieldkit trust add NAME.pub"
        if self.locked:
            remedy = (
                "this device is locked and takes nothing else, whatever the options: have it signed by a trusted key"
            )
        raise TrustError(
            "not trusted",
            where=where,
            found=", ".join(map(str, found)) or "no signature",
            expected=wanted,
            remedy=remedy,
        )

    def named(self, word: str) -> PublicKey:
        """The key of this name or id.  Raises UsageError that lists those there are, also where two have the name."""
        found = [each for each in self.keys if word in (each.name, each.id)]
        if len(found) == 1:
            return found[0]
        listed = ", ".join(f"{each.name} ({each.id})" for each in self.keys) or "none"
        message = "the name of two keys; say the id" if found else "no key of this name or id is trusted"
        raise UsageError(message, where=word, expected=f"one of: {listed}")

    def to_json(self) -> dict[str, Any]:
        return {
            "keys": [each.encode() for each in self.keys],
            "revoked": sorted(self.revoked),
            "require": self.require,
            "locked": self.locked,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: object) -> Policy:
        keys = tuple(PublicKey.decode(line, where) for line in document["keys"])
        return cls(keys, frozenset(document["revoked"]), document["require"], document["locked"])


class TrustStore:
    """The store in one folder; None takes the user's config folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.store = Store(folder)
        self.serials = Serials(self.store)

    def policy(self) -> Policy | None:
        """The policy; None where no store was ever made.  Raises TrustError for one that cannot be relied on."""
        document = self.store.read(TRUST, _FORM)
        if document is None:
            return None
        where = self.store.path(TRUST)
        try:
            policy = Policy.from_json(document, where)
        except UsageError as error:
            raise unreliable(where, error.message) from error
        if policy.require < 1 or not all(is_id(each) for each in policy.revoked):
            raise unreliable(where, "values out of range")
        return policy

    def add(self, key: PublicKey) -> bool:
        """Trust ``key``; this makes the store.  False if it was trusted already.

        Raises TrustError if the key is revoked or the store is locked.
        """
        with self._changing(existing=False) as policy:
            if key.id in policy.revoked:
                remedy = "have a new key made; a revocation is for good"
                raise TrustError("the key was revoked on this device", where=key.name, found=key.id, remedy=remedy)
            if any(each.id == key.id for each in policy.keys):
                return False
            self._check_unlocked(policy, "trust another key")
            self._save(replace(policy, keys=(*policy.keys, key)))
        return True

    def remove(self, word: str) -> PublicKey:
        """Trust the key of this name or id no longer; it may be added again.  Raises TrustError if locked."""
        with self._changing() as policy:
            self._check_unlocked(policy, "remove a key")
            key = policy.named(word)
            self._save(replace(policy, keys=tuple(each for each in policy.keys if each != key)))
        return key

    def revoke(self, word: str) -> tuple[str, ...]:
        """Never again count the key of this id or name, or those of a list file; the ids that are new.

        This goes on a locked store too.  Raises UsageError for what is none of these.
        """
        with self._changing() as policy:
            if is_id(word):
                ids = frozenset({word})
            elif os.path.isfile(word) and not any(each.name == word for each in policy.keys):
                ids = read_revoked(word)
            else:
                ids = frozenset({policy.named(word).id})
            self._save(replace(policy, revoked=policy.revoked | ids))
        return tuple(sorted(ids - policy.revoked))

    def require(self, count: int) -> None:
        """Ask for so many different trusted signatures from now on.

        Raises TrustError to lower it if locked, UsageError for none, and if locked for more than there are keys.
        """
        if count < 1:
            raise UsageError("too few signatures", where="require", found=count, expected="at least 1")
        with self._changing() as policy:
            if count < policy.require:
                self._check_unlocked(policy, "ask for fewer signatures")
            changed = replace(policy, require=count)
            if policy.locked and count > policy.require:
                self._check_usable(changed)
            self._save(changed)

    def lock(self) -> None:
        """Never take a bundle without trusted signatures again, and let the policy only become stricter.

        Raises UsageError if fewer keys are trusted than a bundle needs signatures: such a store could open nothing.
        """
        with self._changing() as policy:
            self._check_usable(policy)
            self._save(replace(policy, locked=True))

    def forget(self, name: str) -> Seen:
        """Take any serial of the bundle of this name again.  Raises TrustError if the store is locked."""
        policy = self.policy()
        if policy is not None:
            self._check_unlocked(policy, "forget a serial")
        return self.serials.forget(name)

    def describe(self) -> dict[str, Any]:
        """The policy, each key with its state, and the newest serials, as JSON."""
        policy = self.policy()
        shown = policy or Policy()
        keys = [
            {"name": each.name, "id": each.id, "state": "revoked" if each.id in shown.revoked else "trusted"}
            for each in shown.keys
        ]
        known = {each.id for each in shown.keys}
        keys += [{"name": "", "id": each, "state": "revoked"} for each in sorted(shown.revoked - known)]
        return {
            "folder": str(self.store.folder),
            "exists": policy is not None,
            "require": shown.require,
            "locked": shown.locked,
            "keys": keys,
            "seen": {name: each.serial for name, each in sorted(self.serials.seen().items())},
            "device_key": self.store.holds(DEVICE_KEY),
        }

    def own(self, key: PrivateKey, path: str | Path) -> Path:
        """Make ``key``, in the file ``path``, the device's own; where it is kept.  The file is copied as it is.

        Raises UsageError if the device has another already.
        """
        data, kept = read_bytes(path, MAX_KEY_FILE, "private key"), self.store.path(DEVICE_KEY)
        with self.store.locked():
            if self.store.holds(DEVICE_KEY) and read_bytes(kept, MAX_KEY_FILE, "private key") != data:
                raise UsageError(
                    "the device has another key already, and what was encrypted for it needs that",
                    where=kept,
                    remedy=f"move that file away first, or name {key.name} where it is needed: --key",
                )
            write_atomically(kept, data, mode=0o600)
        return kept

    def private_key(self, path: str | Path | None, passphrase: Passphrase | None) -> PrivateKey:
        """The device's private key: that in ``path``, or its own.  Raises UsageError if there is none."""
        if path is None and not self.store.holds(DEVICE_KEY):
            raise UsageError(
                "the bundle is encrypted, and this device has no key",
                where=self.store.path(DEVICE_KEY),
                remedy="name the key with --key, or keep it here: fieldkit trust device NAME.key",
            )
        return read_private_key(path or self.store.path(DEVICE_KEY), passphrase)

    def _check_unlocked(self, policy: Policy, deed: str) -> None:
        if policy.locked:
            raise TrustError(
                f"the device is locked and will not {deed}",
                where=self.store.folder,
                remedy="a lock is for good; docs/seal.md says how a device is set up anew",
            )

    def _check_usable(self, policy: Policy) -> None:
        """A locked store cannot be mended, so that it must be one under which a bundle can be taken."""
        usable = [each for each in policy.keys if each.id not in policy.revoked]
        if len(usable) < policy.require:
            remedy = "a locked device takes no more keys" if policy.locked else "add keys: fieldkit trust add NAME.pub"
            raise UsageError(
                "locked like this, the device could never open a bundle again",
                where=self.store.folder,
                found=f"{len(usable)} keys",
                expected=f"at least {policy.require}",
                remedy=remedy,
            )

    def _save(self, policy: Policy) -> None:
        self.store.write(TRUST, policy.to_json())

    @contextmanager
    def _changing(self, existing: bool = True) -> Iterator[Policy]:
        """The policy, with other processes kept out; ``existing`` refuses where there is no store."""
        if existing and self.policy() is None:
            raise UsageError(
                "this device has no trust store yet",
                where=self.store.folder,
                remedy="make one: fieldkit trust add NAME.pub",
            )
        with self.store.locked():
            yield self.policy() or Policy()
