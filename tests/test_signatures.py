"""Signatures in the user block: what they cover, and that nothing about them can be changed unnoticed."""

from __future__ import annotations

import random
from pathlib import Path

import device
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle import documents, parse_bundle, signatures
from fieldkit.bundle.keys import PrivateKey
from fieldkit.bundle.seal import SIGNATURES_AT, STATEMENT_AT, USER_BLOCK, open_seal, sign, user_block
from fieldkit.errors import BundleError, DamagedBundle, IncompatibleBundle, UsageError
from fieldkit.field.trust import admission
from fieldkit.field.trust.policy import TrustStore

PAGE = (Path(__file__).parents[1] / "docs" / "bundle-format.md").read_text(encoding="utf-8")
RECORD = signatures.RECORD
PLAIN = device.plain()
WHOLE = device.signed(device.HQ, device.STRANGER, data=PLAIN)


def with_block(data: bytes, block: bytes) -> bytes:
    return data[:SIGNATURES_AT] + block.ljust(signatures.ROOM, b"\0") + data[USER_BLOCK:]


def records(data: bytes) -> list[bytes]:
    block = data[SIGNATURES_AT:USER_BLOCK]
    # A signature may itself end in zeros.
    cut = (block[start : start + RECORD] for start in range(0, len(block), RECORD))
    return [each for each in cut if any(each)]


def test_the_page_gives_the_record() -> None:
    assert f"Up to {signatures.MOST} records of {RECORD} bytes" in PAGE
    assert "`ed25519-sig-1` and three zeros" in PAGE
    assert "over `fieldkit statement 1`, a newline, and the statement" in PAGE


def test_a_signature_is_plain_ed25519_over_the_page_s_bytes() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    data = device.signed(device.HQ)
    record = data[2048 : 2048 + 112]
    statement = data[16:2048].split(b"\n")[0]
    assert record[:16] == b"ed25519-sig-1\0\0\0"
    assert record[16:48] == device.HQ.public().signing
    Ed25519PublicKey.from_public_bytes(record[16:48]).verify(record[48:], b"fieldkit statement 1\n" + statement)
    assert not any(data[2048 + 112 : 4096])


def test_signing_changes_the_signatures_room_alone() -> None:
    data = device.plain()
    signed = device.signed(device.HQ, device.PARTNER, data=data)
    assert with_block(signed, b"") == data
    assert parse_bundle(signed, "memory").digest == parse_bundle(data, "memory").digest


def test_the_order_of_signing_does_not_show_and_twice_is_once() -> None:
    keys = [device.HQ, device.PARTNER, device.STRANGER]
    assert device.signed(*keys) == device.signed(*reversed(keys)) == device.signed(*keys, *keys)
    assert open_seal(device.signed(*keys), "memory").signers == tuple(sorted(key.public().signing for key in keys))


def test_the_room_is_bounded() -> None:
    keys = [PrivateKey.generate(f"k{index}") for index in range(signatures.MOST + 1)]
    full = device.signed(*keys[:-1])
    assert len(open_seal(full, "memory").signers) == signatures.MOST == 18
    with pytest.raises(UsageError, match="no room for another signature"):
        sign(full, keys[-1], "memory")


@pytest.fixture
def trusting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that trusts HQ, on which a call of HDF5 fails the test."""

    def unpack(data: bytes, where: object) -> None:
        raise AssertionError("HDF5 was called")

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    TrustStore().add(device.HQ.public())
    monkeypatch.setattr("fieldkit.bundle.hdf5.unpack", unpack)


@pytest.mark.usefixtures("trusting")
def test_the_trap_is_set() -> None:
    with pytest.raises(AssertionError, match="HDF5 was called"):
        admission.admit(device.signed(device.HQ), "memory")


@pytest.mark.usefixtures("trusting")
def test_every_bit_of_a_signed_bundle_is_covered() -> None:
    # The stranger's key is not trusted, and yet no bit of its record may change either.
    data = bytearray(WHOLE)
    for place in range(len(data)):
        for bit in range(8):
            data[place] ^= 1 << bit
            with pytest.raises(BundleError):
                admission.admit(bytes(data), "memory")
            data[place] ^= 1 << bit
    assert data == WHOLE


@pytest.mark.usefixtures("trusting")
@settings(max_examples=200)
@given(st.data())
def test_no_edit_of_several_bytes_passes(data: st.DataObject) -> None:
    changed = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.sampled_from([0, STATEMENT_AT, SIGNATURES_AT, USER_BLOCK]))
        changed[start + data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
    if changed != WHOLE:
        with pytest.raises(BundleError):
            admission.admit(bytes(changed), "memory")


@pytest.mark.parametrize("change", [{"serial": 9}, {"name": "other"}, {"min_runtime": "0.0.1"}])
def test_an_edited_statement(change: dict[str, object]) -> None:
    data = device.signed(device.HQ)
    line = data[STATEMENT_AT:SIGNATURES_AT].partition(b"\n")[0]
    block = user_block(documents.encode(documents.decode(line, "statement") | change))
    edited = block[:SIGNATURES_AT] + data[SIGNATURES_AT:]
    with pytest.raises(DamagedBundle, match="a signature that does not fit the statement"):
        open_seal(edited, "memory")


def test_a_signature_moved_to_another_bundle() -> None:
    moved = with_block(device.plain(serial=1), b"".join(records(device.signed(device.HQ))))
    with pytest.raises(DamagedBundle, match="does not fit the statement"):
        open_seal(moved, "memory")


def test_parts_of_two_signed_bundles() -> None:
    one, other = device.signed(device.HQ), device.signed(device.HQ, data=device.plain(1, "other"))
    for data in (one[:USER_BLOCK] + other[USER_BLOCK:], one[:SIGNATURES_AT] + other[SIGNATURES_AT:]):
        with pytest.raises(DamagedBundle):
            open_seal(data, "memory")


def test_a_signature_under_another_s_key() -> None:
    (record,) = records(device.signed(device.HQ))
    forged = record[:16] + device.PARTNER.public().signing + record[48:]
    with pytest.raises(DamagedBundle, match=f"one of key {device.PARTNER.public().id}"):
        open_seal(with_block(device.plain(), forged), "memory")


def test_a_signature_of_something_else_by_the_same_key() -> None:
    """A key signs its own receiving key too: that signature must not do for a bundle."""
    public = device.HQ.public()
    forged = signatures.KIND + public.signing + public.certificate
    with pytest.raises(DamagedBundle, match="does not fit"):
        open_seal(with_block(device.plain(), forged), "memory")
    (record,) = records(device.signed(device.HQ))
    statement = device.plain()[STATEMENT_AT:SIGNATURES_AT].partition(b"\n")[0]
    bare = signatures.KIND + public.signing + device.HQ.sign(statement)
    assert bare != record
    with pytest.raises(DamagedBundle, match="does not fit"):
        open_seal(with_block(device.plain(), bare), "memory")


def test_records_out_of_order_twice_or_with_a_gap() -> None:
    data = device.plain()
    first, second = records(device.signed(device.HQ, device.PARTNER))
    for block in (second + first, first + first, first + second + first):
        with pytest.raises(DamagedBundle, match="out of order, or two of one key"):
            open_seal(with_block(data, block), "memory")
    for block in (bytes(RECORD) + first, first + bytes(RECORD) + second, bytes(1) + first):
        with pytest.raises(DamagedBundle, match="where signatures stand that are none"):
            open_seal(with_block(data, block), "memory")


def test_bytes_after_the_last_record() -> None:
    (record,) = records(device.signed(device.HQ))
    for block in (record + b"x", record + bytes(1000) + b"x", record.ljust(2047, b"\0") + b"\1"):
        with pytest.raises(BundleError):
            open_seal(with_block(device.plain(), block), "memory")
    keys = [PrivateKey.generate(f"k{index}") for index in range(signatures.MOST)]
    full = b"".join(records(device.signed(*keys)))
    with pytest.raises(DamagedBundle, match="cut short"):
        open_seal(with_block(device.plain(), full + signatures.KIND), "memory")


def test_a_later_kind_of_record() -> None:
    (record,) = records(device.signed(device.HQ))
    for kind in (b"ed25519-sig-2\0\0\0", b"ml-dsa-65-sig-1\0"):
        with pytest.raises(IncompatibleBundle, match="upgrade fieldkit"):
            open_seal(with_block(device.plain(), kind + record[16:]), "memory")


@settings(max_examples=100)
@given(st.binary(max_size=400))
def test_any_bytes_in_the_room(block: bytes) -> None:
    data = with_block(PLAIN, block)
    if any(block):
        with pytest.raises(BundleError):
            open_seal(data, "memory")
    else:
        assert open_seal(data, "memory").signers == ()


def test_a_damaged_bundle_is_not_signed() -> None:
    data = bytearray(device.plain())
    data[random.Random(0).randrange(USER_BLOCK, len(data))] ^= 1
    with pytest.raises(DamagedBundle, match="changed after"):
        sign(bytes(data), device.HQ, "memory")
