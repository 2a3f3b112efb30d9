"""What a bundle says of its own making, and its identity apart from bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run
from hostile.making import PARTS, WHOLE, sealed
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn

from fieldkit.bundle import parse_bundle, save_bundle, write_bundle
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.logical import LOGICAL, content_digest, logical_digest
from fieldkit.bundle.reader import parse_file
from fieldkit.bundle.writer import arrays

BILL = {
    "bomFormat": "CycloneDX",
    "components": [{"name": "numpy", "version": "2", "licenses": [{"expression": "BSD"}]}],
}


def attested(bundle: Bundle) -> Bundle:
    """``bundle`` with a statement about it, as HQ makes one."""
    subject = {"name": bundle.manifest.name, "digest": {LOGICAL: content_digest(arrays(bundle))}}
    return replace(bundle, provenance={"subject": [subject], "predicate": {"told": {"ipc": 2}}}, components=BILL)


def test_the_logical_digest_is_what_the_format_page_says() -> None:
    parts = {"/b": np.array([[1, 2]], np.uint16), "/a": np.array([0.5], np.float32)}
    stream = b'fieldkit logical digest 1\n["/a","float32",[1]]\n' + np.array([0.5], "<f4").tobytes()
    stream += b'["/b","uint16",[1,2]]\n' + b"\1\0\2\0"
    assert logical_digest(parts) == hashlib.sha256(stream).hexdigest()


def test_it_is_the_same_for_other_bytes_of_the_same_arrays() -> None:
    other = sealed()
    assert other != WHOLE
    assert parse_file(other, "other").bundle.digest != parse_file(WHOLE, "whole").bundle.digest
    assert logical_digest(parse_file(other, "other").arrays) == logical_digest(PARTS)
    assert logical_digest({path: array.astype(array.dtype.newbyteorder(">")) for path, array in PARTS.items()}) == (
        logical_digest(PARTS)
    )


@given(drawn.arrays(np.uint8, st.tuples(st.integers(1, 3), st.sampled_from([2, 4]))))
def test_it_changes_with_any_value_path_dtype_or_shape(array: np.ndarray) -> None:
    changed = array.copy()
    changed.flat[-1] ^= 1
    others = [
        {"/y": array},
        {"/x": array[None]},
        {"/x": changed},
        {"/x": array.view(np.uint16)},
        {"/x": array, "/y": array},
    ]
    assert logical_digest({"/x": array}) not in [logical_digest(each) for each in others]


def test_statements_travel_and_do_not_speak_of_themselves() -> None:
    plain = handmade.bundle()
    full = attested(plain)
    assert content_digest(arrays(full)) == content_digest(arrays(plain)) == logical_digest(arrays(plain))
    found = parse_bundle(write_bundle(full), "memory")
    assert (found.provenance, found.components) == (full.provenance, BILL)


def test_inspect_shows_them_when_asked(run: Run, tmp_path: Path) -> None:
    save_bundle(attested(handmade.bundle()), tmp_path / "b.h5")
    assert json.loads(run("inspect", "b.h5", "--json").stdout)["attested"] is True
    document = json.loads(run("inspect", "b.h5", "--json", "--provenance").stdout)
    assert document["components"] == BILL
    assert document["statement"]["predicate"] == {"told": {"ipc": 2}}
    told = run("inspect", "b.h5", "--provenance").stdout
    assert "predicate.told.ipc: 2" in told
    assert "numpy    2        BSD" in told


def test_a_statement_about_other_parts_is_told(run: Run, tmp_path: Path) -> None:
    other = replace(attested(handmade.bundle()), card={"floors": {}})
    save_bundle(other, tmp_path / "b.h5")
    assert json.loads(run("inspect", "b.h5", "--json").stdout)["attested"] is False
    assert "ABOUT OTHER PARTS" in run("inspect", "b.h5").stdout


def test_statements_of_any_shape_are_shown(run: Run, tmp_path: Path) -> None:
    odd = {"components": [1, {"name": "\x1b[2J", "licenses": [{"license": 3}]}, {}], "a": {"b": [[], {}, None]}}
    save_bundle(replace(handmade.bundle(), provenance=odd, components=odd), tmp_path / "b.h5")
    done = run("inspect", "b.h5", "--provenance")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b[2J" not in done.stdout


@pytest.mark.hq
def test_headquarters_attests_what_it_makes(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from fieldkit.field.datasets import Dataset
    from fieldkit.hq.provenance import attested as attest
    from fieldkit.hq.spec import RecipeSpec, Spec

    spec = Spec(
        data=str(tmp_path / "d.npz"), method="random", recipes=(RecipeSpec("mlp", {"width": 4}),), seed=3, threads=2
    )
    dataset = Dataset(handmade.images(6), None, ("a", "b", "c"), "drawn", "CC0-1.0", "by hand", ("grey",))
    made = attest(handmade.bundle(), spec, dataset)
    assert write_bundle(made) == write_bundle(attest(handmade.bundle(), spec, dataset))
    subject = [{"name": "handmade", "digest": {LOGICAL: content_digest(arrays(handmade.bundle()))}}]
    assert made.provenance["subject"] == subject
    assert made.provenance["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = made.provenance["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["recipes"] == [{"architecture": "mlp", "options": {"width": 4}}]
    assert definition["externalParameters"]["seed"] == 3
    assert definition["resolvedDependencies"] == [{"name": "drawn", "digest": {"sha256": dataset.train.digest()}}]
    libraries = {each["name"].lower(): each for each in made.components["components"]}
    assert {"fieldkit", "numpy", "torch", "onnx", "h5py", "python"} <= set(libraries)
    assert libraries["numpy"]["purl"] == f"pkg:pypi/numpy@{np.__version__}"
    told = json.dumps([made.provenance, made.components])
    assert str(tmp_path) not in told
    assert "threads" not in told
