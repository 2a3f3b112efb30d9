"""A bundle's bytes, judged: by their seal, their signatures and this device's policy, and only then decrypted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fieldkit.bundle.files import read_bytes
from fieldkit.bundle.seal import SEALED, Seal, Statement, open_seal
from fieldkit.errors import TrustError
from fieldkit.field.trust.store import TRUST, Store

if TYPE_CHECKING:
    from fieldkit.bundle.keys import Passphrase, PublicKey
    from fieldkit.field.trust.policy import Signer


class Sealer(Protocol):
    """Keeps bytes secret on the disk: what ``close`` gives, only ``open`` on this device turns back."""

    def close(self, data: bytes) -> bytes: ...

    def open(self, data: bytes) -> bytes: ...


@dataclass(frozen=True)
class Verified:
    """A bundle's bytes that this device may parse.

    data: a whole file; of an encrypted one, what was inside.  seal: its own.
    signers: ids of the trusted keys that signed the file; none if it was taken without.
    sealer: for what is written beside an encrypted bundle; else None.
    """

    data: bytes
    seal: Seal
    signers: tuple[str, ...] = ()
    sealer: Sealer | None = None


@dataclass(frozen=True)
class Verdict:
    """What this device thinks of a file's origin.

    require: how many trusted signatures were asked for.  refusal: why it is not trusted; None if it is.
    """

    statement: Statement
    signers: tuple[Signer, ...]
    require: int
    refusal: TrustError | None

    @property
    def encrypted(self) -> bool:
        return self.statement.format == SEALED

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.statement.name,
            "serial": self.statement.serial,
            "encrypted": self.encrypted,
            "trusted": self.refusal is None,
            "require": self.require,
            "signers": [vars(each) for each in self.signers],
            "reason": None if self.refusal is None else self.refusal.message,
        }


def verify_bundle(path: str | Path, *, require: int | None = None, keys: Sequence[PublicKey] = ()) -> Verdict:
    """What this device thinks of a bundle's origin; nothing is parsed, decrypted or remembered.

    require: ask for more different trusted signatures than the device's policy does.
    keys: trust exactly these, in place of those of the device's store; those that it revoked stay revoked.

    Raises UsageError if there is no such file, BundleError if it is damaged, TrustError if the store is.
    """
    from fieldkit.field.trust.policy import Policy, TrustStore

    seal = open_seal(read_bytes(path), path, encrypted=None)
    store = TrustStore()
    policy = store.policy() or Policy()
    if keys:
        policy = Policy(tuple(keys), policy.revoked)
    needed, refusal = max(require or 1, policy.require), None
    try:
        policy.check(seal, path, needed)
        if not keys:
            store.serials.check(seal.statement, _digest(seal), path)
    except TrustError as error:
        refusal = error
    return Verdict(seal.statement, policy.signers(seal), needed, refusal)


def verified(
    data: bytes,
    where: object,
    *,
    allow_unsigned: bool = False,
    key: str | Path | None = None,
    passphrase: Passphrase | None = None,
    encrypted: bool | None = None,
) -> Verified:
    """The bytes of a bundle that this device may parse, from those of a file.

    encrypted: whether the file must be encrypted, or must not.  Other parameters and errors are those of
    ``admission.open_bundle``.
    """
    seal = open_seal(data, where, encrypted)
    signers: tuple[str, ...] = ()
    if (store := Store()).holds(TRUST):
        signers = _admitted(seal, allow_unsigned, where)
    if seal.statement.format != SEALED:
        return Verified(data, seal, signers)
    from fieldkit.bundle.encryption import DeviceSealer, decrypt
    from fieldkit.field.trust.policy import TrustStore

    own = TrustStore(store.folder).private_key(key, passphrase)
    inside, inner = decrypt(data, seal, own, where)
    if signers:
        TrustStore(store.folder).serials.check(inner.statement, _digest(inner), where)
    return Verified(inside, inner, signers, DeviceSealer(own, inner.statement.payload_sha256))


def _admitted(seal: Seal, allow_unsigned: bool, where: object) -> tuple[str, ...]:
    """The trusted signers, where there is a store; none for a bundle that is taken without.  Raises TrustError."""
    from fieldkit.field.trust.policy import Policy, TrustStore

    store = TrustStore()
    policy = store.policy() or Policy()
    try:
        signers = policy.check(seal, where)
    except TrustError:
        if policy.locked or not allow_unsigned:
            raise
        return ()
    store.serials.check(seal.statement, _digest(seal), where)
    return signers


def _digest(seal: Seal) -> str | None:
    """The bundle's digest; None while it is encrypted."""
    return None if seal.statement.format == SEALED else seal.statement.payload_sha256
