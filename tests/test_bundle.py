"""Parts to bytes to parts, and what neither the writer nor the reader lets through."""

from __future__ import annotations

import dataclasses
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny import CLASSES, SHAPE, bundle, manifest, recipe

from fieldkit.bundle import Bundle, parse_bundle, read_bundle, save_bundle, write_bundle
from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Initial, Recipe, Schedule, Tensor
from fieldkit.bundle.samples import Samples
from fieldkit.errors import UsageError


def same(first: object, second: object) -> bool:
    """Equality that looks into arrays, by dtype, shape and bytes."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
    if dataclasses.is_dataclass(first):
        return type(first) is type(second) and same(vars(first), vars(second))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return first == second


names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
numbers = st.floats(-1e6, 1e6)
json_objects = st.dictionaries(
    names,
    st.recursive(st.none() | st.booleans() | numbers | names, lambda inner: st.lists(inner, max_size=3)),
    max_size=3,
)
tensors = st.builds(
    Tensor,
    names,
    st.lists(st.integers(1, 3), max_size=3).map(tuple),
    st.tuples(st.sampled_from(["constant", "uniform", "normal"]), st.floats(0, 10)),
)
tensor_lists = st.lists(tensors, max_size=3, unique_by=lambda each: each.name).map(tuple)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    parameters = draw(tensor_lists)
    halves = st.floats(-100, 100, width=16)
    weights = {each.name: draw(arrays.arrays(np.float16, each.shape, elements=halves)) for each in parameters}
    steps = draw(st.integers(1, 4))
    listed = Schedule(steps, 2, "listed", rates=tuple(draw(st.lists(numbers, min_size=steps, max_size=steps))))
    scopes = draw(st.lists(st.sampled_from(["full", "head", "norm-bias"]), min_size=1, unique=True).map(sorted))
    programs = {f"train/{scope}": draw(st.binary(min_size=1, max_size=900)) for scope in scopes}
    return Recipe(
        name=draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)),
        architecture=draw(json_objects),
        parameters=parameters,
        state={scope: draw(tensor_lists) for scope in scopes},
        programs={"predict": draw(st.binary(min_size=1, max_size=900)), **programs},
        schedule=draw(
            st.sampled_from(
                [
                    listed,
                    Schedule(steps, 3, "cosine", 0.5, 1),
                    Schedule(steps, 1, rate=1e-3),
                    Schedule(steps, 3, "step", 0.5, milestones=(1, 4), factor=0.5),
                    Schedule(steps, 3, "one-cycle", 0.5, 2),
                ]
            )
        ),
        initial=Initial(draw(st.none() | st.integers(0, 2**64 - 1)), weights if draw(st.booleans()) else {}),
    )


@st.composite
def bundles(draw: st.DrawFn) -> Bundle:
    count, shape = draw(st.integers(1, 3)), tuple(draw(st.lists(st.integers(1, 3), min_size=3, max_size=3)))
    classes = tuple(draw(st.lists(names, min_size=1, max_size=3, unique=True)))
    dtype = draw(st.sampled_from(["uint8", "uint16"]))
    images = draw(arrays.arrays(np.float32, (count, *shape), elements=st.floats(-1e4, 1e5, width=32)))
    made = draw(st.lists(recipes(), min_size=1, max_size=2, unique_by=lambda each: each.name))
    probe = Samples(
        draw(arrays.arrays(dtype, (2, *shape))),
        draw(arrays.arrays(np.int64, 2, elements=st.integers(0, len(classes) - 1))),
    )
    described = Manifest(
        name=draw(names),
        task="classification",
        classes=classes,
        input_shape=shape,
        radiometry=Radiometry.measure(probe.images),
        method=draw(json_objects),
        recipes=tuple(each.name for each in made),
        provenance=draw(json_objects),
        licence=draw(names),
    )
    labels = arrays.arrays(np.float16, (count, len(classes)), elements=st.floats(0, 1, width=16))
    return Bundle(
        manifest=described,
        images=Pixels.encode(images, draw(st.sampled_from(["uint8", "uint16"]))),
        labels=draw(labels),
        recipes={each.name: each for each in made},
        probe=probe if draw(st.booleans()) else None,
        card=draw(json_objects),
        serial=draw(st.integers(0, 2**63 - 1)),
    )


@settings(max_examples=60, deadline=None)
@given(bundles())
def test_what_is_written_is_read(original: Bundle) -> None:
    data = write_bundle(original)
    found = parse_bundle(data, "memory")
    assert len(found.digest) == 64
    assert same(replace(found, digest=""), original)
    assert write_bundle(found) == data


def test_the_same_parts_give_the_same_bytes_at_any_time() -> None:
    first = write_bundle(bundle(weights=True))
    # HDF5 counts its times in whole seconds.
    time.sleep(1.1)
    assert write_bundle(bundle(weights=True)) == first


def test_a_tiny_bundle_is_small() -> None:
    assert len(write_bundle(bundle(weights=True))) < 11_000


def test_any_deflate_makes_the_same_bundle(tmp_path: Path) -> None:
    stored = write_bundle(bundle(weights=True), lambda data: zlib.compress(data, 0))
    assert len(stored) > len(write_bundle(bundle(weights=True)))
    assert same(replace(parse_bundle(stored, "memory"), digest=""), bundle(weights=True))
    assert save_bundle(bundle(weights=True), tmp_path / "b.h5", lambda data: zlib.compress(data, 0)).digest == (
        parse_bundle(stored, "memory").digest
    )


def test_save_and_read(tmp_path: Path) -> None:
    saved = save_bundle(bundle(), tmp_path / "b.h5")
    assert same(read_bundle(tmp_path / "b.h5"), saved)
    assert saved.digest
    assert [each.name for each in tmp_path.iterdir()] == ["b.h5"]


def test_recipes_keep_the_manifests_order() -> None:
    both = {"zeta": recipe("zeta"), "alpha": recipe("alpha")}
    found = parse_bundle(write_bundle(replace(bundle(), manifest=manifest(("zeta", "alpha")), recipes=both)), "memory")
    assert list(found.recipes) == ["zeta", "alpha"]


def test_large_arrays_take_several_chunks() -> None:
    # 8 MiB each: two fit into a chunk, and the last chunk is half empty.
    noise = np.random.default_rng(0).integers(0, 2**16, (3, 1, 2048, 2048), dtype=np.uint16)
    shaped = replace(manifest(), input_shape=(1, 2048, 2048), radiometry=Radiometry(("g",), "uint16", (1.0,), (1.0,)))
    pixels = Pixels(noise, np.ones(1, np.float32), np.zeros(1, np.float32))
    found = parse_bundle(write_bundle(replace(bundle(probe=False), manifest=shaped, images=pixels)), "memory")
    assert np.array_equal(found.images.codes, noise)


def with_manifest(**changes: object) -> Bundle:
    return replace(bundle(), manifest=replace(manifest(), **changes))  # type: ignore[arg-type]


def with_recipe(**changes: object) -> Bundle:
    return replace(bundle(), recipes={"net": replace(recipe(), **changes)})  # type: ignore[arg-type]


def with_probe(images: np.ndarray, targets: list[int]) -> Bundle:
    return replace(bundle(), probe=Samples(images, np.array(targets)))


CONTRADICTIONS = {
    "task": (with_manifest(task="augury"), "task"),
    "twice the same class": (with_manifest(classes=("oak", "oak", "rock")), "classes"),
    "class of nothing": (with_manifest(classes=("oak", "", "rock")), "classes"),
    "class of two lines": (with_manifest(classes=("oak", "a\nb", "rock")), "classes"),
    "input shape": (with_manifest(input_shape=(2, 4, 4)), r"images: found \(2, 4, 3\)"),
    "bands": (with_manifest(radiometry=Radiometry(("r",), "uint8", (1.0,), (1.0,))), "radiometry"),
    "std": (with_manifest(radiometry=Radiometry(("a", "b"), "uint8", (1.0, 1.0), (1.0, 0.0))), "std"),
    "recipes": (with_manifest(recipes=("net", "other"), expectations={}), "the manifest names"),
    "name": (with_manifest(name="two\nlines"), "printable"),
    "labels": (replace(bundle(), labels=np.zeros((3, 4), np.float16)), r"labels: found \(3, 4\)"),
    "label NaN": (replace(bundle(), labels=np.full((3, 3), np.nan, np.float16)), "labels: NaN"),
    "label dtype": (replace(bundle(), labels=np.zeros((3, 3), np.float32)), "float32; expected float16"),
    "scale": (replace(bundle(), images=replace(bundle().images, scale=np.zeros(2, np.float32))), "positive"),
    "probe dtype": (with_probe(np.zeros((1, *SHAPE), np.uint16), [0]), "radiometry says uint8"),
    "probe shape": (with_probe(np.zeros((1, 1, 4, 3), np.uint8), [0]), "probe images"),
    "probe range": (with_probe(np.zeros((1, *SHAPE), np.uint8), [len(CLASSES)]), "class indices 0 to 2"),
    "probe count": (with_probe(np.zeros((2, *SHAPE), np.uint8), [0]), "one for each"),
    "probe empty": (with_probe(np.zeros((0, *SHAPE), np.uint8), []), "empty"),
    "no train program": (with_recipe(programs={"predict": b"x"}, state={}), "train/<scope>"),
    "unknown program": (with_recipe(programs={**recipe().programs, "dance": b"x"}), "dance"),
    "state": (with_recipe(state={}), "state"),
    "schedule": (with_recipe(schedule=Schedule(3, 1, "listed", rates=(0.1,))), "3 steps"),
    "schedule kind": (with_recipe(schedule=Schedule(3, 1, "lunar")), "lunar"),
    "law": (with_recipe(parameters=(Tensor("a", (1,), ("cauchy", 1.0)),)), "cauchy"),
    "seed": (with_recipe(initial=Initial(seed=-1)), "seed"),
    "weights": (with_recipe(initial=Initial(weights={"a": np.zeros(1, np.float16)})), "names or shapes"),
    "card": (replace(bundle(), card={"floor": np.int64(1)}), "/card"),
    "serial": (replace(bundle(), serial=-1), "serial"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_the_writer_refuses_what_no_reader_would_accept(case: str) -> None:
    wrong, reason = CONTRADICTIONS[case]
    with pytest.raises(UsageError, match=reason):
        write_bundle(wrong)


def test_all_contradictions_are_told_at_once() -> None:
    wrong = replace(with_manifest(task="augury", input_shape=(2, 4, 4)), labels=np.zeros((3, 4), np.float16))
    with pytest.raises(UsageError) as caught:
        write_bundle(wrong)
    assert all(word in str(caught.value) for word in ("task", "images", "labels", "probe"))


def test_a_bomb_is_not_written() -> None:
    flat = Pixels(np.zeros((40, 2, 1024, 1024), np.uint8), np.ones(2, np.float32), np.zeros(2, np.float32))
    blank = replace(bundle(probe=False), images=flat, labels=np.zeros((40, 3), np.float16))
    with pytest.raises(UsageError, match="more than a reader accepts"):
        write_bundle(replace(blank, manifest=replace(manifest(), input_shape=(2, 1024, 1024))))


def test_no_file_is_a_usage_error(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.h5", "no such"), (tmp_path, "folder"), (Path("/dev/null"), "device")):
        with pytest.raises(UsageError, match=reason):
            read_bundle(path)
