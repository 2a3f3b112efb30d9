"""A patch gives the new bundle byte for byte, or an error; hostile ones included."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle import delta, documents, save_bundle, write_bundle
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.delta import MAGIC, apply_patch, make_patch
from fieldkit.bundle.matching import WINDOW, copies
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.samples import Samples
from fieldkit.errors import BundleError, DamagedBundle, IncompatibleBundle, UsageError

SHAPE = (1, 16, 16)


def issue(classes: int, serial: int, per_class: int = 40) -> Bundle:
    """A bundle of noise images of so many classes; those of two issues are the same as far as they go."""
    noise = [np.random.default_rng(label).integers(0, 256, (2, per_class, *SHAPE), np.uint8) for label in range(10)]
    codes, probe = (np.concatenate([each[which] for each in noise[:classes]]) for which in (0, 1))
    base = handmade.bundle(handmade.recipe(shape=SHAPE, classes=classes), shape=SHAPE, classes=classes)
    labels = np.repeat(np.eye(classes, dtype=np.float16), per_class, axis=0)
    one = np.ones(1, np.float32)
    samples = Samples(probe, np.repeat(np.arange(classes), per_class))
    return replace(base, images=Pixels(codes, one, 0 * one), labels=labels, probe=samples, serial=serial)


OLD, NEW = write_bundle(issue(9, 1)), write_bundle(issue(10, 2))
PATCH = make_patch(OLD, NEW)
HEADER = json.loads(PATCH[len(MAGIC) : PATCH.index(b"\n", len(MAGIC))])


def forged(body: bytes, **changes: object) -> bytes:
    """A patch with a right digest over whatever it says."""
    line = documents.encode(HEADER | changes)
    return b"".join((MAGIC, line, b"\n", delta._digest(line, body), b"\n", body))


def plan(*numbers: int, insert: bytes = b"") -> bytes:
    return zlib.compress(np.array(numbers, "<u8").tobytes() + insert)


def test_the_new_bundle_comes_byte_for_byte() -> None:
    found = apply_patch(OLD, PATCH)
    assert found.data == NEW
    assert (found.name, found.old_serial, found.serial) == ("handmade", 1, 2)
    assert make_patch(OLD, NEW) == PATCH


def test_a_tenth_class_takes_a_patch_of_a_quarter() -> None:
    # Nine tenths of the images are in the old bundle; noise compresses to nothing less than itself.
    assert len(PATCH) < 0.25 * len(NEW)


def test_any_two_bundles_make_a_patch() -> None:
    small = write_bundle(replace(issue(3, 7, 2), probe=None))
    for old, new in ((small, NEW), (NEW, small), (small, small)):
        assert apply_patch(old, make_patch(old, new)).data == new


def test_bundles_of_two_names_make_none() -> None:
    other = replace(issue(3, 1), manifest=replace(issue(3, 1).manifest, name="other"))
    with pytest.raises(UsageError, match="different names; found other; expected handmade"):
        make_patch(OLD, write_bundle(other))


def test_another_old_bundle_is_refused_with_what_is_expected() -> None:
    with pytest.raises(IncompatibleBundle, match=r"another issue of 'handmade'; found .*serial 2.*; expected serial 1"):
        apply_patch(NEW, PATCH)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_changed_byte_is_noticed(data: st.DataObject) -> None:
    changed = bytearray(PATCH)
    changed[data.draw(st.integers(0, len(PATCH) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(BundleError):
        apply_patch(OLD, bytes(changed))
    with pytest.raises(BundleError):
        apply_patch(OLD, PATCH[: data.draw(st.integers(0, len(PATCH) - 1))])


HOSTILE = {
    "no patch": (b"hello", "not a fieldkit patch"),
    "a bundle": (NEW, "not a fieldkit patch"),
    "no header": (MAGIC + b"x" * 9000, "changed"),
    "unknown key": (forged(plan(), path="/etc/passwd"), "unknown key"),
    "a new file of 2 GB": (forged(plan(), new_bytes=2**31), "a new file of"),
    "a new file of less than nothing": (forged(plan(), new_bytes=-1), "a new file of"),
    "more than it may grow": (forged(plan(), new_bytes=500 * 2**20), "a new file of"),
    "a million copies": (forged(plan(), copies=10**6), "1000000 copies"),
    "copies less than none": (forged(plan(), copies=-1), "-1 copies"),
    "copies that are not there": (forged(plan(), copies=9), "another length"),
    "copy beyond the end": (forged(plan(0, len(OLD), 1), copies=1), "not there"),
    "copy of 2^64": (forged(plan(0, 0, 2**64 - 1), copies=1), "not there"),
    "insert of 2^64": (forged(plan(2**64 - 1, 0, 0), copies=1), "not there"),
    "copies of copies": (forged(plan(*(0, 0, len(OLD) - 4096) * 9), copies=9), "more bytes than it promises"),
    "too few bytes": (forged(plan(0, 0, 10), copies=1), "another number of bytes"),
    "a body that is none": (forged(b"noise"), "cannot be inflated"),
    "a body that ends early": (forged(plan(0, 0, 10)[:-2], copies=1), "another length"),
    "a body with bytes behind": (forged(plan(0, 0, 10) + b"x", copies=1), "another length"),
    "a body that is a bomb": (forged(zlib.compress(bytes(64 * 2**20))), "another length"),
    "another new file": (forged(plan(insert=bytes(len(NEW))), copies=0), "another new file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_patch_is_refused(case: str) -> None:
    data, reason = HOSTILE[case]
    with pytest.raises(DamagedBundle, match=reason):
        apply_patch(OLD, data)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_copies_are_true_and_miss_nothing_long(data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.binary(max_size=200), max_size=6))
    shared = data.draw(st.binary(min_size=2 * WINDOW, max_size=300))
    old = b"".join([*pieces[:3], shared, *pieces[3:]])
    new = b"".join([*data.draw(st.permutations(pieces)), shared, data.draw(st.binary(max_size=50))])
    found, done, copied = list(copies(old, new)), 0, 0
    for target, source, length in found:
        assert target >= done
        assert length >= WINDOW
        assert new[target : target + length] == old[source : source + length]
        done, copied = target + length, copied + length
    assert copied >= WINDOW


def test_both_commands(run: Run, tmp_path: Path) -> None:
    save_bundle(issue(9, 1), tmp_path / "old.h5")
    save_bundle(issue(10, 2), tmp_path / "new.h5")
    made = json.loads(run("diff", "old.h5", "new.h5", "-o", "p", "--json").stdout)
    assert made["schema"] == "fieldkit.diff/1"
    assert made["patch_bytes"] == (tmp_path / "p").stat().st_size
    assert made["share"] < 0.25
    done = run("patch", "old.h5", "p", "-o", "again.h5")
    assert (done.returncode, done.stderr) == (0, "")
    assert "handmade, serial 1 -> 2" in done.stdout
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "new.h5").read_bytes()


def test_a_patch_that_does_not_fit_leaves_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "new.h5").write_bytes(NEW)
    (tmp_path / "p").write_bytes(PATCH)
    wrong = run("patch", "new.h5", "p", "-o", "out.h5")
    assert wrong.returncode == 4
    assert "expected serial 1, digest" in wrong.stderr
    assert run("patch", "new.h5", "missing", "-o", "out.h5").returncode == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["new.h5", "p"]


def test_an_untrusted_new_bundle_is_not_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.h5").write_bytes(OLD)
    (tmp_path / "p").write_bytes(PATCH)
    home = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert run("keygen", "hq", **home).returncode == 0
    assert run("trust", "add", "hq.pub", **home).returncode == 0
    refused = run("patch", "old.h5", "p", "-o", "out.h5", **home)
    assert refused.returncode == 3
    assert not (tmp_path / "out.h5").exists()
    assert run("patch", "old.h5", "p", "-o", "out.h5", "--allow-unsigned", **home).returncode == 0
    # The signature that counts is the new bundle's own, and it comes with the patch.
    assert run("sign", "out.h5", "--key", "hq.key", **home).returncode == 0
    assert run("diff", "old.h5", "out.h5", "-o", "signed", **home).returncode == 0
    done = run("patch", "old.h5", "signed", "-o", "got.h5", **home)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got.h5").read_bytes() == (tmp_path / "out.h5").read_bytes()


def test_a_patch_that_speaks_of_another_bundle_than_it_makes() -> None:
    body = PATCH[PATCH.index(b"\n", PATCH.index(b"\n", len(MAGIC)) + 1) + 1 :]
    assert apply_patch(OLD, forged(body)).data == NEW
    for told in ({"name": "another"}, {"serial": 99}, {"old_serial": 0}):
        with pytest.raises(DamagedBundle, match="another name or serial"):
            apply_patch(OLD, forged(body, **told))
