"""A device's trust: what it takes with and without a store, what a lock and a revocation do, and which serials pass."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import device
import pytest
import tiny

from fieldkit.bundle import write_bundle
from fieldkit.bundle.keys import PrivateKey
from fieldkit.bundle.seal import seal
from fieldkit.errors import DamagedBundle, DataError, TrustError, UsageError
from fieldkit.field.trust.admission import admit, open_bundle
from fieldkit.field.trust.policy import TrustStore
from fieldkit.field.trust.store import Store, config_folder
from fieldkit.field.trust.verification import verify_bundle

HQ, PARTNER, STRANGER = (key.public() for key in (device.HQ, device.PARTNER, device.STRANGER))
UNSIGNED = device.plain()
BY_HQ = device.signed(device.HQ, data=UNSIGNED)
BY_STRANGER = device.signed(device.STRANGER, data=UNSIGNED)
BY_BOTH = device.signed(device.HQ, device.PARTNER, data=UNSIGNED)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config folder of a new device."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "fieldkit"


@pytest.fixture
def store(folder: Path) -> TrustStore:
    """A device that trusts HQ."""
    made = TrustStore()
    made.add(HQ)
    return made


def refused(data: bytes, reason: str = "not trusted", **options: bool) -> None:
    with pytest.raises(TrustError, match=reason) as caught:
        admit(data, "b.h5", **options)
    assert caught.value.exit_code == 3


def issue(serial: int, name: str = "tiny") -> bytes:
    return device.signed(device.HQ, data=device.plain(serial, name))


def other_issue(serial: int) -> bytes:
    """A bundle of the same name that holds something else."""
    return device.signed(device.HQ, data=write_bundle(replace(tiny.bundle(card=False), serial=serial)))


def test_without_a_store_any_sound_bundle_is_taken(folder: Path) -> None:
    for data in (UNSIGNED, BY_HQ, BY_STRANGER):
        admitted = admit(data, "b.h5")
        assert (admitted.signers, admitted.sealer, admitted.data) == ((), None, data)
    assert not folder.exists()
    with pytest.raises(DamagedBundle):
        admit(BY_HQ[:-1], "b.h5")


def test_with_a_store_a_trusted_key_must_have_signed(store: TrustStore) -> None:
    assert admit(BY_HQ, "b.h5").signers == (HQ.id,)
    assert admit(BY_BOTH, "b.h5").signers == (HQ.id,)
    refused(UNSIGNED, "found no signature")
    refused(BY_STRANGER, f"found unknown key {STRANGER.id}")


def test_allow_unsigned_takes_what_nobody_trusted_signed(store: TrustStore) -> None:
    for data in (UNSIGNED, BY_STRANGER):
        assert admit(data, "b.h5", allow_unsigned=True).signers == ()
    assert store.serials.seen() == {}


def test_allow_unsigned_does_not_excuse_damage_or_a_bad_store(store: TrustStore, folder: Path) -> None:
    with pytest.raises(DamagedBundle):
        admit(BY_HQ[:-1], "b.h5", allow_unsigned=True)
    (folder / "trust.json").write_text("{}")
    refused(UNSIGNED, "cannot be relied on", allow_unsigned=True)


def test_an_emptied_store_trusts_nobody(store: TrustStore) -> None:
    store.remove("hq")
    refused(BY_HQ, "unknown key")
    refused(UNSIGNED, "no key is trusted on this device yet")


def test_two_people(store: TrustStore) -> None:
    store.require(2)
    refused(BY_HQ, "expected signatures of 2 different trusted keys")
    refused(BY_BOTH, "unknown key")
    store.add(PARTNER)
    assert set(admit(BY_BOTH, "b.h5").signers) == {HQ.id, PARTNER.id}
    # One person's two signatures are one: the second changes nothing.
    refused(device.signed(device.HQ, device.HQ, data=UNSIGNED), "2 different trusted keys")
    store.revoke("partner")
    refused(BY_BOTH, rf"revoked key {PARTNER.id} \(partner\)")


def test_one_key_under_two_names_counts_once(store: TrustStore) -> None:
    again = type(HQ)("hq-again", HQ.signing, HQ.receiving, HQ.certificate)
    assert not store.add(again)
    store.require(2)
    refused(BY_HQ, "2 different trusted keys")


def test_a_revoked_key_counts_for_nothing_and_stays_revoked(store: TrustStore) -> None:
    assert store.revoke(HQ.id) == (HQ.id,)
    assert store.revoke("hq") == ()
    refused(BY_HQ, "revoked key")
    store.remove("hq")
    with pytest.raises(TrustError, match="was revoked on this device"):
        store.add(HQ)


def test_a_key_may_be_revoked_before_it_is_known(store: TrustStore) -> None:
    store.revoke(STRANGER.id)
    with pytest.raises(TrustError, match="was revoked"):
        store.add(STRANGER)


def test_a_revocation_list(store: TrustStore, tmp_path: Path) -> None:
    listed = tmp_path / "revoked.txt"
    listed.write_text(f"# lost in the field\n{HQ.id}  hq, 2026\n\n{STRANGER.id}\n")
    assert store.revoke(str(listed)) == tuple(sorted((HQ.id, STRANGER.id)))
    refused(BY_HQ, "revoked key")


@pytest.mark.parametrize("text", ["", "# nothing\n", "abc\n", f"{HQ.id.upper()}\n", f"{HQ.id}\n{HQ.id[:-1]}\n"])
def test_a_list_with_anything_else_is_refused_as_a_whole(store: TrustStore, tmp_path: Path, text: str) -> None:
    listed = tmp_path / "revoked.txt"
    listed.write_text(text)
    with pytest.raises(DataError):
        store.revoke(str(listed))
    assert admit(BY_HQ, "b.h5").signers == (HQ.id,)


def test_a_name_goes_before_a_file(store: TrustStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hq").write_text(STRANGER.id)
    assert store.revoke("hq") == (HQ.id,)


def test_a_locked_device_only_becomes_stricter(store: TrustStore) -> None:
    store.add(PARTNER)
    store.require(2)
    store.lock()
    refused(UNSIGNED, "this device is locked", allow_unsigned=True)
    refused(BY_STRANGER, "this device is locked", allow_unsigned=True)
    assert admit(BY_BOTH, "b.h5").signers
    for deed in (
        lambda: store.add(STRANGER),
        lambda: store.remove("hq"),
        lambda: store.require(1),
        lambda: store.forget("tiny"),
    ):
        with pytest.raises(TrustError, match="locked"):
            deed()
    store.require(2)
    assert not store.add(HQ)
    store.revoke("partner")
    refused(BY_BOTH, "revoked")
    policy = store.policy()
    assert policy is not None
    assert policy.locked


def test_a_lock_that_would_keep_everything_out(store: TrustStore) -> None:
    store.require(2)
    with pytest.raises(UsageError, match="could never open a bundle again; found 1 keys; expected at least 2"):
        store.lock()
    store.add(PARTNER)
    store.revoke("partner")
    with pytest.raises(UsageError, match="found 1 keys"):
        store.lock()


def test_nothing_but_adding_makes_a_store(folder: Path) -> None:
    store = TrustStore()
    for deed in (
        lambda: store.remove("hq"),
        lambda: store.revoke(HQ.id),
        lambda: store.require(2),
        store.lock,
    ):
        with pytest.raises(UsageError, match="has no trust store yet"):
            deed()
    assert not folder.exists()


def test_keys_by_name_and_id(store: TrustStore) -> None:
    twin = PrivateKey.generate("hq").public()
    store.add(twin)
    with pytest.raises(UsageError, match="the name of two keys"):
        store.remove("hq")
    assert store.remove(twin.id) == twin
    with pytest.raises(UsageError, match=f"no key of this name.*hq .{HQ.id}"):
        store.remove("partner")


def test_the_files_are_private(store: TrustStore, folder: Path) -> None:
    admit(BY_HQ, "b.h5")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
        "trust.json": 0o600,
        "serials.json": 0o600,
    }


@pytest.mark.parametrize("name", ["trust.json", "serials.json"])
@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b'{"version":1}', b'{"version":2,"keys":[],"revoked":[],"require":1,"locked":false}'],
)
def test_a_damaged_store_lets_nothing_in(store: TrustStore, folder: Path, name: str, content: bytes) -> None:
    admit(BY_HQ, "b.h5")
    (folder / name).write_bytes(content)
    refused(BY_HQ, f"{name}: a trust store that cannot be relied on")


@pytest.mark.parametrize(
    "change", [{"require": 0}, {"require": True}, {"keys": ["x"]}, {"revoked": ["x"]}, {"locked": 0}, {"more": 1}]
)
def test_a_store_with_values_out_of_range(store: TrustStore, folder: Path, change: dict[str, object]) -> None:
    path = folder / "trust.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(BY_HQ, "cannot be relied on")


def test_a_store_that_others_can_write(store: TrustStore, folder: Path) -> None:
    for path, mode in ((folder, 0o770), (folder, 0o702), (folder / "trust.json", 0o620)):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        refused(BY_HQ, f"mode {mode:04o}, so that others may write there")
        path.chmod(before)
    assert admit(BY_HQ, "b.h5").signers


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_a_store_of_somebody_else(store: TrustStore, folder: Path) -> None:
    os.chown(folder / "trust.json", 12345, -1)
    refused(BY_HQ, "owned by user 12345")


def test_a_store_that_is_a_folder_or_a_dangling_link(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    (folder / "trust.json").symlink_to("nowhere")
    refused(UNSIGNED, "cannot be relied on")
    (folder / "trust.json").unlink()
    (folder / "trust.json").mkdir()
    refused(UNSIGNED, "cannot be relied on")


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert config_folder() == tmp_path / ".config" / "fieldkit"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/dev/null")
    assert not Store().holds("trust.json")


def test_an_older_issue_is_refused(store: TrustStore) -> None:
    admit(issue(3), "b.h5")
    refused(issue(2), "an older issue than one that was opened here.*serial 2; expected serial 3 or newer")
    admit(issue(3), "b.h5")
    admit(issue(4), "b.h5")
    refused(issue(3), "an older issue")
    assert admit(issue(0, "another"), "b.h5").signers
    assert {name: seen.serial for name, seen in store.serials.seen().items()} == {"tiny": 4, "another": 0}


def test_another_bundle_of_the_same_serial_is_refused(store: TrustStore) -> None:
    admit(issue(3), "b.h5")
    refused(other_issue(3), "two issues of one serial")
    admit(other_issue(4), "b.h5")


def test_an_operator_may_forget(store: TrustStore) -> None:
    admit(issue(3), "b.h5")
    assert store.forget("tiny").serial == 3
    admit(issue(2), "b.h5")
    with pytest.raises(UsageError, match="no bundle of this name was opened here; expected one of: 'tiny'"):
        store.forget("other")


def test_a_serial_is_remembered_only_of_what_was_trusted_and_parsed(store: TrustStore) -> None:
    admit(device.plain(9), "b.h5", allow_unsigned=True)
    admit(device.signed(device.STRANGER, data=device.plain(9)), "b.h5", allow_unsigned=True)
    broken = device.signed(device.HQ, data=seal("tiny", b"no HDF5", 9) + b"no HDF5")
    with pytest.raises(DamagedBundle, match="HDF5"):
        admit(broken, "b.h5")
    assert store.serials.seen() == {}


def test_allow_unsigned_does_not_let_a_replay_pass(store: TrustStore) -> None:
    admit(issue(3), "b.h5")
    refused(issue(2), "an older issue", allow_unsigned=True)


def test_a_verdict_changes_nothing(store: TrustStore, tmp_path: Path) -> None:
    path = tmp_path / "b.h5"
    path.write_bytes(BY_BOTH)
    verdict = verify_bundle(path)
    assert verdict.refusal is None
    assert {(each.name, each.trusted) for each in verdict.signers} == {("hq", True), (None, False)}
    assert verify_bundle(path, require=2).refusal is not None
    assert verify_bundle(path, require=2, keys=[HQ, PARTNER]).refusal is None
    assert verify_bundle(path, keys=[STRANGER]).refusal is not None
    assert store.serials.seen() == {}
    admit(issue(7), "b.h5")
    assert "an older issue" in str(verify_bundle(path).refusal)
    store.require(2)
    assert verify_bundle(path, require=1).require == 2


def test_a_bundle_is_read_once(store: TrustStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that were judged are those that are parsed, whatever happens to the file."""
    path = tmp_path / "b.h5"
    path.write_bytes(BY_HQ)
    checked = TrustStore.policy

    def swapped(self: TrustStore) -> object:
        path.write_bytes(b"something else")
        return checked(self)

    monkeypatch.setattr(TrustStore, "policy", swapped)
    assert open_bundle(path).data == BY_HQ
    assert path.read_bytes() == b"something else"


def test_a_locked_device_never_asks_for_more_signatures_than_it_has_keys(store: TrustStore) -> None:
    store.lock()
    with pytest.raises(UsageError, match="never open a bundle"):
        store.require(2)
    assert store.policy().require == 1


def test_a_revoked_key_counts_for_nothing_where_it_is_named_either(store: TrustStore, tmp_path: Path) -> None:
    (tmp_path / "b.h5").write_bytes(BY_HQ)
    assert verify_bundle(tmp_path / "b.h5", keys=[HQ]).refusal is None
    store.revoke(HQ.id)
    assert verify_bundle(tmp_path / "b.h5", keys=[HQ]).refusal is not None


def test_a_folder_that_leads_nowhere_is_no_sign_of_no_store(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.symlink_to(folder.parent / "not mounted")
    refused(UNSIGNED, "cannot be relied on")
