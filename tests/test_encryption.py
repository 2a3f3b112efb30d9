"""Encrypted bundles: who can read them, what is checked before that, and what a device keeps closed."""

from __future__ import annotations

import random
from pathlib import Path

import device
import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle import encryption, read_bundle
from fieldkit.bundle.encryption import DeviceSealer, decrypt, encrypt
from fieldkit.bundle.keys import PrivateKey, PublicKey
from fieldkit.bundle.seal import SEALED_MAGIC, SIGNATURES_AT, USER_BLOCK, open_seal, sealed, sign
from fieldkit.errors import BundleError, DamagedBundle, IncompatibleBundle, TrustError, UsageError
from fieldkit.field.trust import verification
from fieldkit.field.trust.admission import admit, open_bundle
from fieldkit.field.trust.policy import TrustStore
from fieldkit.field.trust.sealing import decrypt_bundle, encrypt_bundle, sign_bundle

DEVICE, OTHER = PrivateKey.generate("device"), PrivateKey.generate("other")
INSIDE = device.signed(device.PARTNER, data=device.plain(5))
SEALED = encrypt(INSIDE, [DEVICE.public()], "memory")
SIGNED = sign(SEALED, device.HQ, "memory")


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device's private key, and a config folder without a store."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return device.write_private(tmp_path, DEVICE)


@pytest.fixture
def store(key: Path) -> TrustStore:
    """A device that trusts HQ and has its own key."""
    made = TrustStore()
    made.add(device.HQ.public())
    made.own(DEVICE, key)
    return made


def test_what_is_inside_is_the_whole_bundle(key: Path) -> None:
    admitted = admit(SEALED, "b.sealed", key=key)
    assert admitted.data == INSIDE
    assert admitted.bundle.digest == open_seal(INSIDE, "memory").statement.payload_sha256
    assert admitted.sealer is not None


def test_the_file_tells_name_and_serial_and_nothing_else() -> None:
    seal = open_seal(SEALED, "memory", encrypted=True)
    inner = open_seal(INSIDE, "memory").statement
    assert (seal.statement.name, seal.statement.serial, seal.signers) == ("tiny", 5, ())
    assert SEALED.startswith(SEALED_MAGIC)
    assert inner.payload_sha256.encode() not in SEALED
    assert b"\x89HDF\r\n" not in SEALED[USER_BLOCK:]


def test_the_payload_is_an_age_file_for_age_s_own_tools() -> None:
    """Independent of our own naming of keys: a recipient that age made itself."""
    identity = pyrage.x25519.Identity.generate()
    assert SEALED[USER_BLOCK:].startswith(b"age-encryption.org/v1\n-> X25519 ")
    ours = pyrage.x25519.Identity.from_str(encryption._bech32("age-secret-key-", DEVICE.receiving_bytes()).upper())
    assert pyrage.decrypt(SEALED[USER_BLOCK:], [identity, ours]) == INSIDE


@settings(max_examples=50)
@given(st.binary(min_size=32, max_size=32))
def test_keys_are_named_as_age_names_them(secret: bytes) -> None:
    public = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    identity = pyrage.x25519.Identity.from_str(encryption._bech32("age-secret-key-", secret).upper())
    assert str(identity.to_public()) == encryption._bech32("age", public)


def test_several_recipients_and_nobody_else() -> None:
    data = encrypt(INSIDE, [DEVICE.public(), OTHER.public()], "memory")
    seal = open_seal(data, "memory", encrypted=True)
    for each in (DEVICE, OTHER):
        assert decrypt(data, seal, each, "memory")[0] == INSIDE
    with pytest.raises(TrustError, match=f"cannot be decrypted with this key; found hq, {device.HQ.public().id}"):
        decrypt(data, seal, device.HQ, "memory")


def test_what_cannot_be_encrypted() -> None:
    with pytest.raises(UsageError, match="nobody could read it"):
        encrypt(INSIDE, [], "memory")
    with pytest.raises(IncompatibleBundle, match="the bundle is encrypted"):
        encrypt(SEALED, [DEVICE.public()], "memory")
    with pytest.raises(DamagedBundle):
        encrypt(INSIDE[:-1], [DEVICE.public()], "memory")
    public = DEVICE.public()
    for point in (bytes(32), b"\1" + bytes(31)):
        with pytest.raises(UsageError, match="keeps nothing secret"):
            encrypt(INSIDE, [PublicKey("weak", public.signing, point, public.certificate)], "memory")


def test_other_commands_say_what_an_encrypted_bundle_is(tmp_path: Path) -> None:
    (tmp_path / "b.sealed").write_bytes(SEALED)
    with pytest.raises(IncompatibleBundle, match="the bundle is encrypted"):
        read_bundle(tmp_path / "b.sealed")


def test_the_signature_outside_decides_and_before_anything_is_decrypted(
    store: TrustStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert admit(SIGNED, "b.sealed").signers == (device.HQ.public().id,)
    assert store.serials.seen()["tiny"].serial == 5

    def no_decryption(*arguments: object) -> None:
        raise AssertionError("it was decrypted")

    monkeypatch.setattr("fieldkit.bundle.encryption.pyrage.decrypt", no_decryption)
    with pytest.raises(AssertionError, match="it was decrypted"):
        admit(SIGNED, "b.sealed")
    # The partner's signature inside does not help, nor would HQ's.
    by_hq = encrypt(device.signed(device.HQ, data=device.plain(6)), [DEVICE.public()], "memory")
    for data in (SEALED, by_hq, sign(SEALED, device.STRANGER, "memory")):
        with pytest.raises(TrustError, match="not trusted"):
            admit(data, "b.sealed")
    store.serials.record("tiny", 6, "0" * 64)
    with pytest.raises(TrustError, match="an older issue"):
        admit(SIGNED, "b.sealed")


def test_every_bit_of_a_signed_encrypted_bundle_is_covered(store: TrustStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decryption(*arguments: object) -> None:
        raise AssertionError("it was decrypted")

    monkeypatch.setattr("fieldkit.bundle.encryption.pyrage.decrypt", no_decryption)
    chosen, data = random.Random(0), bytearray(SIGNED)
    places = [*range(500), *range(SIGNATURES_AT, SIGNATURES_AT + 120), *range(USER_BLOCK, USER_BLOCK + 700)]
    for place in [*places, *(chosen.randrange(len(data)) for _ in range(2000))]:
        bit = 1 << chosen.randrange(8)
        data[place] ^= bit
        with pytest.raises(BundleError):
            admit(bytes(data), "b.sealed")
        data[place] ^= bit
    assert data == SIGNED


def test_another_issue_of_one_serial_is_noticed_once_it_is_decrypted(store: TrustStore) -> None:
    admit(SIGNED, "b.sealed")
    again = sign(encrypt(INSIDE, [DEVICE.public(), OTHER.public()], "memory"), device.HQ, "memory")
    assert admit(again, "b.sealed").signers
    store.forget("tiny")
    store.serials.record("tiny", 5, "0" * 64)
    with pytest.raises(TrustError, match="two issues of one serial"):
        admit(again, "b.sealed")


@pytest.mark.parametrize(("serial", "name"), [(6, "tiny"), (5, "other")])
def test_an_outside_that_promises_another_bundle(store: TrustStore, serial: int, name: str) -> None:
    """Even whoever is trusted cannot pass an old bundle off as a new one."""
    ciphertext = SEALED[USER_BLOCK:]
    outside = open_seal(device.plain(serial, name), "memory").statement
    forged = sign(sealed(outside, ciphertext), device.HQ, "memory")
    with pytest.raises(DamagedBundle, match="another bundle inside than the outside says"):
        admit(forged, "b.sealed")


def test_an_age_file_of_something_else(store: TrustStore) -> None:
    outside = open_seal(INSIDE, "memory").statement
    identity = pyrage.x25519.Recipient.from_str(encryption._bech32("age", DEVICE.public().receiving))
    for content, reason in ((b"", "cut short"), (b"hello" * 1000, "not a fieldkit bundle"), (SEALED, "is encrypted")):
        data = sign(sealed(outside, pyrage.encrypt(content, [identity])), device.HQ, "memory")
        with pytest.raises(BundleError, match=reason):
            admit(data, "b.sealed")
    for ciphertext in (b"", b"age-encryption.org/v1\n", SEALED[USER_BLOCK:-1], SEALED[USER_BLOCK:] + b"x"):
        with pytest.raises(TrustError, match="cannot be decrypted"):
            admit(sign(sealed(outside, ciphertext), device.HQ, "memory"), "b.sealed")


def test_the_device_s_own_key(key: Path) -> None:
    with pytest.raises(UsageError, match="this device has no key"):
        admit(SEALED, "b.sealed")
    kept = TrustStore().own(DEVICE, key)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert admit(SEALED, "b.sealed").data == INSIDE
    TrustStore().own(DEVICE, key)
    with pytest.raises(UsageError, match="another key already"):
        TrustStore().own(OTHER, device.write_private(key.parent, OTHER))
    with pytest.raises(TrustError, match="cannot be decrypted"):
        admit(SEALED, "b.sealed", key=key.parent / "other.key")


def test_a_device_key_with_a_passphrase(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "locked.key"
    path.write_bytes(DEVICE.encode("correct horse"))
    TrustStore().own(DEVICE, path)
    assert admit(SEALED, "b.sealed", passphrase=lambda name: "correct horse").data == INSIDE
    with pytest.raises(UsageError, match="passphrase is wrong"):
        admit(SEALED, "b.sealed", passphrase=lambda name: "wrong horse")


def test_files(tmp_path: Path, store: TrustStore) -> None:
    path, target, back = tmp_path / "b.h5", tmp_path / "b.sealed", tmp_path / "back.h5"
    path.write_bytes(device.plain(5))
    before = path.read_bytes()
    encrypt_bundle(path, target, [DEVICE.public()], device.HQ)
    sign_bundle(target, device.PARTNER)
    assert open_bundle(target).bundle.serial == 5
    decrypt_bundle(target, back)
    assert back.read_bytes() == before == path.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o600
    with pytest.raises(IncompatibleBundle, match="not encrypted"):
        decrypt_bundle(path, tmp_path / "x.h5")
    for deed in (
        lambda: encrypt_bundle(path, path, [DEVICE.public()]),
        lambda: decrypt_bundle(target, target),
    ):
        with pytest.raises(UsageError, match="would replace the bundle"):
            deed()
    assert not (tmp_path / "x.h5").exists()


def test_a_plain_bundle_asks_for_no_key(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert admit(INSIDE, "b.h5", key=key.parent / "nowhere.key").sealer is None
    assert verification.verified(INSIDE, "b.h5").sealer is None


@settings(max_examples=50)
@given(st.binary(max_size=500))
def test_a_sealer_gives_back_what_it_closed(data: bytes) -> None:
    sealer = DeviceSealer(DEVICE, "a" * 64)
    closed = sealer.close(data)
    assert sealer.open(closed) == data == DeviceSealer(DEVICE, "a" * 64).open(closed)
    assert sealer.close(data) != closed
    assert len(data) < 8 or data not in closed.removeprefix(encryption.CLOSED)


def test_a_sealer_opens_nothing_else() -> None:
    sealer, closed = DeviceSealer(DEVICE, "a" * 64), DeviceSealer(DEVICE, "a" * 64).close(b"weights" * 10)
    changes = [closed[:place] + bytes([closed[place] ^ 1]) + closed[place + 1 :] for place in range(len(closed))]
    for changed in (*changes, closed[:-1], closed + b"\0", b"", closed[:20], b"weights"):
        with pytest.raises(DamagedBundle):
            sealer.open(changed)
    for other in (DeviceSealer(OTHER, "a" * 64), DeviceSealer(DEVICE, "b" * 64)):
        with pytest.raises(DamagedBundle, match="closed by another key or for another bundle"):
            other.open(closed)
