"""Whatever is done to a bundle's bytes, the answer is one BundleError."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile.making import PARTS, WHOLE, sealed
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle import documents, parse_bundle, read_bundle
from fieldkit.bundle.files import read_bytes
from fieldkit.bundle.hdf5 import h5py
from fieldkit.bundle.seal import MAGIC, STATEMENT_AT, USER_BLOCK, seal, user_block
from fieldkit.errors import BundleError, DamagedBundle, IncompatibleBundle


def with_statement(**changes: object) -> bytes:
    line = WHOLE[STATEMENT_AT : WHOLE.index(b"\n", STATEMENT_AT)]
    statement = documents.encode(documents.decode(line, "statement") | changes)
    return user_block(statement) + WHOLE[USER_BLOCK:]


def with_document(path: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    document = json.loads(PARTS[path].tobytes())
    change(document)
    return with_bytes(path, json.dumps(document).encode())


def with_bytes(path: str, data: bytes) -> bytes:
    return sealed(lambda file: None, parts={**PARTS, path: np.frombuffer(data, np.uint8)})


def refused(data: bytes, reason: str, kind: type[BundleError] = DamagedBundle) -> None:
    with pytest.raises(kind, match=reason) as caught:
        parse_bundle(data, "file.h5")
    assert caught.value.exit_code == 4
    assert "file.h5" in str(caught.value)


def test_the_tests_own_packing_is_accepted() -> None:
    assert parse_bundle(sealed(lambda file: None), "memory").manifest.name == "tiny"


def test_every_changed_byte_is_noticed() -> None:
    chosen = random.Random(0)
    places = [*range(400), *(chosen.randrange(len(WHOLE)) for _ in range(1500)), len(WHOLE) - 1]
    for place in places:
        for bit in range(8) if place < 400 else [chosen.randrange(8)]:
            changed = bytearray(WHOLE)
            changed[place] ^= 1 << bit
            with pytest.raises(BundleError):
                parse_bundle(bytes(changed), "file.h5")


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 200, 2048, 4095, 4096, 4097, 5000, len(WHOLE) - 1])
def test_truncations(length: int) -> None:
    refused(WHOLE[:length], "cut short|too short")


def test_longer_files() -> None:
    refused(WHOLE + b"\0", "too long")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_bundle(data, "noise")
    with pytest.raises(BundleError):
        parse_bundle(MAGIC + data + bytes(USER_BLOCK), "noise")
    with pytest.raises(BundleError):
        parse_bundle(seal("tiny", data) + data, "noise")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_sealed_but_broken_payload_never_gives_another_error(data: st.DataObject) -> None:
    payload = bytearray(WHOLE[USER_BLOCK:])
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BundleError):
        parse_bundle(seal("tiny", bytes(payload)) + bytes(payload), "file.h5")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "b.h5").write_bytes(b"")
    with pytest.raises(DamagedBundle, match="cut short"):
        read_bundle(tmp_path / "b.h5")


@pytest.mark.parametrize("user_block", [0, 512, 4096])
def test_a_foreign_hdf5_file(tmp_path: Path, user_block: int) -> None:
    with h5py.File(tmp_path / "b.h5", "w", userblock_size=user_block) as file:
        file["x"] = 1
    with pytest.raises(DamagedBundle, match="an HDF5 file, but not a fieldkit bundle"):
        read_bundle(tmp_path / "b.h5")


def test_a_model_in_a_bundles_place(tmp_path: Path) -> None:
    (tmp_path / "digits.onnx").write_bytes(b"\x08\x0a" + bytes(5000))
    with pytest.raises(
        DamagedBundle, match=r"digits\.onnx: not a fieldkit bundle;[^\n]*\n  remedy: .*fieldkit predict"
    ):
        read_bundle(tmp_path / "digits.onnx")


def test_other_versions() -> None:
    refused(with_statement(version=2), "another version", IncompatibleBundle)
    refused(with_statement(min_runtime="99.0"), "99.0 or newer", IncompatibleBundle)
    refused(with_statement(min_runtime="soon"), "not a version")
    refused(with_statement(min_runtime=None), "not a version")
    assert parse_bundle(with_statement(min_runtime="0.0.9"), "memory")


def test_statements() -> None:
    refused(with_statement(format="other"), "another format")
    refused(with_statement(keys=[]), "unknown key")
    refused(with_statement(serial=-1), "serial")
    refused(with_statement(serial=True), "serial")
    refused(with_statement(name="other"), "the statement says 'other', the manifest 'tiny'")
    refused(with_statement(payload_length=5), "too short or too long")
    refused(with_statement(payload_sha256="0" * 64), "changed")
    line = WHOLE[STATEMENT_AT : WHOLE.index(b"\n", STATEMENT_AT)]
    refused(user_block(line.replace(b'","', b'", "')) + WHOLE[USER_BLOCK:], "not canonical")
    refused(WHOLE.replace(b'"serial":0', b'"serial":1', 1), "statement was changed")
    refused(WHOLE[:2050] + b"x" + WHOLE[2051:], "signatures")


@pytest.mark.parametrize("path", [path for path in PARTS if path not in ("/card", "/recipes/net/weights")])
def test_a_missing_dataset_is_named(path: str) -> None:
    rest = {each: array for each, array in PARTS.items() if each != path}
    shown = path.replace("full", "<scope>")
    refused(sealed(lambda file: None, parts=rest), shown)


def test_violations_are_told_at_once() -> None:
    def build(file: Any) -> None:
        file["/recipes/net/soft"] = h5py.SoftLink("/manifest")
        file["/probe"].attrs["note"] = "x"
        file["/more"] = 1

    with pytest.raises(DamagedBundle) as caught:
        parse_bundle(sealed(build), "file.h5")
    assert all(word in str(caught.value) for word in ("/recipes/net/soft", "attributes", "/more"))


DOCUMENTS = {
    "missing": ("/manifest", lambda d: d.pop("task"), "/manifest.task: missing"),
    "unknown": ("/manifest", lambda d: d.update(mood="good"), "/manifest.mood: unknown key"),
    "kind": ("/manifest", lambda d: d.update(classes="oak"), '/manifest.classes: found "oak"; expected an array'),
    "inner": ("/manifest", lambda d: d["classes"].append(3), r"/manifest.classes\[3\]: found 3; expected a string"),
    "count": ("/manifest", lambda d: d["input_shape"].pop(), "found 2 entries; expected 3"),
    "dtype": ("/manifest", lambda d: d["radiometry"].update(dtype="int8"), "uint8 or uint16"),
    "whole": ("/manifest", lambda d: d.update(input_shape=[2, 4, 3.5]), "expected a whole number"),
    "boolean": ("/manifest", lambda d: d.update(input_shape=[2, 4, True]), "expected a whole number"),
    "huge": ("/manifest", lambda d: d["radiometry"].update(mean=["1", 1]), "expected a finite number"),
    "expectation": ("/manifest", lambda d: d["expectations"]["net"]["held-out"].pop("low"), "held-out.low: missing"),
    "high": ("/manifest", lambda d: d["expectations"]["net"]["held-out"].update(high=0.1), "low <= mean <= high"),
    "fit": ("/manifest", lambda d: d.update(classes=["a", "b"]), "labels: found .* probe targets"),
    "negative": ("/manifest", lambda d: d.update(input_shape=[-1, 2, 3]), "positive"),
    "law": ("/recipes/net/recipe", lambda d: d["parameters"][0].update(law=["odd", 1]), "/recipes/net/recipe.param"),
    "kinds": ("/recipes/net/recipe", lambda d: d["schedule"].update(kind="odd"), "schedule.kind"),
    "steps": ("/recipes/net/recipe", lambda d: d["schedule"].update(steps=9), "each of 9 steps"),
    "flip": ("/recipes/net/recipe", lambda d: d["augmentation"].update(flip=1), "flip: found 1; expected true or"),
    "state": ("/recipes/net/recipe", lambda d: d["state"].update(head=[]), "state: found scopes"),
    "weights": ("/recipes/net/recipe", lambda d: d["parameters"].pop(), "weights do not fit"),
    "shape": ("/recipes/net/recipe", lambda d: d["parameters"][1].update(shape=[-3]), "weights do not fit"),
    "seed": ("/recipes/net/recipe", lambda d: d["initial"].update(seed="x"), "a whole number or null"),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_documents_are_checked_key_by_key(case: str) -> None:
    path, change, reason = DOCUMENTS[case]
    refused(with_document(path, change), reason)


def test_little_memory_is_enough_for_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"abc")
    code = "import resource, sys; from fieldkit.bundle.files import read_bytes as read; read(sys.argv[1], 9);"
    code += "pages = int(open('/proc/self/statm').read().split()[0]);"
    code += "limit = pages * resource.getpagesize() + 2**26; resource.setrlimit(resource.RLIMIT_AS, (limit, limit));"
    code += "assert read(sys.argv[1]) == b'abc' and read(sys.argv[1], 2) == b'abc' and read(sys.argv[1], 1) == b'ab'"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "small")], check=True, timeout=120)
    # Files of the kernel say that they are empty.
    assert read_bytes("/proc/self/status").startswith(b"Name:")


@pytest.mark.parametrize("depth", [99, 100, 300])
def test_json_is_nested_a_hundred_times_at_most(depth: int) -> None:
    text = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    if depth < 100:
        assert documents.encode(documents.decode(text, "x")) == text
    else:
        with pytest.raises(DamagedBundle, match="nested too deeply"):
            documents.decode(text, "x")
