"""The commands of trust as users call them: a courier's day from keygen to a refused replay."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import click
import device
import pytest

from fieldkit.bundle.seal import open_seal
from fieldkit.cli import main


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder where ``run`` runs: keys, and bundles of serials 1 and 2."""
    for key in (device.HQ, device.PARTNER):
        device.write_private(tmp_path, key)
        device.write_public(tmp_path, key)
    for serial in (1, 2):
        (tmp_path / f"b{serial}.h5").write_bytes(device.plain(serial))
    return tmp_path


@pytest.fixture
def fieldkit(run, tmp_path: Path):
    """``run`` on a device of its own; exit code and the two streams."""

    def called(line: str, **environment: str) -> tuple[int, str, str]:
        done = run(*line.split(), XDG_CONFIG_HOME=str(tmp_path / "config"), **environment)
        return done.returncode, done.stdout, done.stderr

    return called


PACKAGE = Path(__file__).parents[1] / "fieldkit"
# Who may parse bytes that did not come through the door: the door, the child process behind it, and a device's
# measurement of itself, which reads a bundle of the package.
PARSERS = {"field/trust/admission.py", "field/inspection/document.py", "field/measurement/benchmark.py"}


def test_every_command_opens_bundles_through_the_door() -> None:
    for folder in ("cli", "field"):
        for path in (PACKAGE / folder).rglob("*.py"):
            named = re.search(r"\b(read_bundle|parse_bundle|parse_file)\b", path.read_text(encoding="utf-8"))
            assert named is None or path.relative_to(PACKAGE).as_posix() in PARSERS, path


def test_every_command_that_opens_a_bundle_takes_the_same_options() -> None:
    found = {}
    for name in main.COMMANDS:
        command = main.fieldkit.get_command(click.Context(main.fieldkit), name)
        names = {each.name for each in command.params}
        if names & {"bundle", "bundles"}:
            found[name] = {"allow_unsigned", "key"} <= names
    assert {"train", "inspect", "decrypt"} <= set(found)
    assert {name for name, takes in found.items() if not takes} == {"sign", "verify", "encrypt"}


def document(answer: tuple[int, str, str]) -> dict[str, object]:
    assert answer[2] == ""
    return json.loads(answer[1])


def test_keygen(fieldkit, tmp_path: Path) -> None:
    code, out, _ = fieldkit("keygen hq")
    assert (code, out.splitlines()[0]) == (0, "hq.key: keep it to yourself")
    assert (tmp_path / "hq.key").stat().st_mode & 0o777 == 0o600
    code, out, err = fieldkit("keygen hq")
    assert (code, out) == (2, "")
    assert "never written over" in err
    made = document(fieldkit("keygen hq2 --passphrase --json", FIELDKIT_PASSPHRASE="correct horse"))
    assert made["schema"] == "fieldkit.keygen/1"
    assert made["id"] in (tmp_path / "hq2.pub").read_text()
    (tmp_path / "b.h5").write_bytes(device.plain())
    assert fieldkit("sign b.h5 --key hq2.key", FIELDKIT_PASSPHRASE="wrong horse")[0] == 2
    code, _, err = fieldkit("sign b.h5 --key hq2.key")
    assert (code, "set FIELDKIT_PASSPHRASE" in err) == (2, True)
    assert (tmp_path / "b.h5").read_bytes() == device.plain()
    assert fieldkit("sign b.h5 --key hq2.key", FIELDKIT_PASSPHRASE="correct horse")[0] == 0


def test_sign_and_verify(fieldkit, there: Path) -> None:
    code, out, err = fieldkit("verify b1.h5")
    assert (code, out) == (3, "")
    assert "found no signature" in err
    signed = document(fieldkit("sign b1.h5 --key hq.key --json"))
    assert signed["signers"] == [device.HQ.public().id]
    assert fieldkit("verify b1.h5")[0] == 3
    assert fieldkit("verify b1.h5 --pub hq.pub")[:2] == (
        0,
        f"b1.h5: trusted; tiny, serial 1\n  trusted key {device.HQ.public().id} (hq)\n",
    )
    assert fieldkit("verify b1.h5 --require 2 --pub hq.pub --pub partner.pub")[0] == 3
    fieldkit("sign b1.h5 --key partner.key")
    assert fieldkit("verify b1.h5 --require 2 --pub hq.pub --pub partner.pub")[0] == 0
    assert fieldkit("trust add hq.pub")[0] == 0
    verdict = document(fieldkit("verify b1.h5 --json"))
    assert (verdict["schema"], verdict["trusted"]) == ("fieldkit.verify/1", True)
    code, out, err = fieldkit("verify b2.h5 --json")
    assert (code, json.loads(out)["trusted"], "error" in err) == (3, False, True)
    data = bytearray((there / "b1.h5").read_bytes())
    data[-1] ^= 1
    (there / "b1.h5").write_bytes(data)
    assert fieldkit("verify b1.h5")[0] == 4
    assert fieldkit("sign b1.h5 --key hq.key")[0] == 4
    assert (there / "b1.h5").read_bytes() == data
    assert fieldkit("verify nowhere.h5")[0] == 2


def test_a_device_from_its_first_key_to_its_lock(fieldkit, there: Path) -> None:
    assert "no trust store" in fieldkit("trust list")[1]
    assert fieldkit("inspect b1.h5")[0] == 0
    assert "trusted from now on" in fieldkit("trust add hq.pub")[1]
    code, out, err = fieldkit("inspect b1.h5")
    assert (code, out) == (3, "")
    assert "fieldkit sign" in err
    assert fieldkit("inspect b1.h5 --allow-unsigned")[0] == 0
    for serial in (1, 2):
        fieldkit(f"sign b{serial}.h5 --key hq.key")
    assert fieldkit("inspect b1.h5")[0] == 0
    assert fieldkit("trust lock")[0] == 0
    assert fieldkit("trust unlock")[0] == 2
    assert fieldkit("trust add partner.pub")[0] == 3
    fieldkit("sign b1.h5 --key partner.key")
    (there / "unsigned.h5").write_bytes(device.plain(9))
    assert fieldkit("inspect unsigned.h5 --allow-unsigned")[0] == 3
    (there / "revoked.txt").write_text(device.HQ.public().id)
    assert document(fieldkit("trust revoke revoked.txt --json"))["new"] == [device.HQ.public().id]
    code, _, err = fieldkit("inspect b1.h5")
    assert (code, "revoked key" in err) == (3, True)
    listed = document(fieldkit("trust list --json"))
    assert (listed["locked"], [each["state"] for each in listed["keys"]]) == (True, ["revoked"])


def test_encrypt_and_decrypt(fieldkit, there: Path) -> None:
    fieldkit("keygen device")
    assert fieldkit("trust device device.key")[0] == 0
    fieldkit("trust add hq.pub")
    code, out, _ = fieldkit("encrypt b1.h5 --to device.pub --to partner.pub")
    assert (code, "not signed yet: fieldkit sign b1.sealed" in out) == (0, True)
    assert fieldkit("decrypt b1.sealed -o back.h5")[0] == 3
    assert fieldkit("sign b1.sealed --key hq.key")[0] == 0
    assert document(fieldkit("verify b1.sealed --json"))["encrypted"] is True
    for line in ("decrypt b1.sealed -o back.h5", "decrypt b1.sealed --key partner.key -o back.h5"):
        (there / "back.h5").unlink(missing_ok=True)
        assert fieldkit(line)[0] == 0
        assert (there / "back.h5").read_bytes() == device.plain(1)
    assert fieldkit("decrypt b1.sealed --key hq.key -o other.h5")[0] == 3
    assert fieldkit("decrypt b1.h5 -o other.h5")[0] == 4
    assert fieldkit("encrypt b1.h5 --to device.key")[0] == 2
    assert not (there / "other.h5").exists()
    described = document(fieldkit("inspect b1.sealed --json"))
    assert described["digest"] == open_seal(device.plain(1), "memory").statement.payload_sha256


def test_a_replay(fieldkit, there: Path, bundle_file: Path) -> None:
    """Through training, which remembers what it opened."""
    from dataclasses import replace

    import handmade

    from fieldkit.bundle.writer import save_bundle

    fieldkit("trust add hq.pub")
    for serial in (1, 2):
        save_bundle(replace(handmade.bundle(handmade.recipe(steps=2)), serial=serial), there / f"s{serial}.h5")
        fieldkit(f"sign s{serial}.h5 --key hq.key")
    for name in ("s1.h5", "s2.h5", "s2.h5"):
        assert fieldkit(f"train {name} -o m.onnx")[0] == 0
    shutil.copy(there / "s1.h5", there / "replayed.h5")
    code, _, err = fieldkit("train replayed.h5 -o m2.onnx")
    assert (code, "an older issue than one that was opened here" in err) == (3, True)
    assert not (there / "m2.onnx").exists()
    assert fieldkit("trust forget handmade")[1] == "handmade: serial 2 is forgotten\n"
    assert fieldkit("train replayed.h5 -o m2.onnx")[0] == 0


@pytest.mark.parametrize("line", ["encrypt . --to hq.pub", "decrypt /"])
def test_a_folder_in_the_place_of_a_bundle(fieldkit, there: Path, line: str) -> None:
    code, out, err = fieldkit(line)
    assert (code, out) == (2, "")
    assert "a folder" in err
