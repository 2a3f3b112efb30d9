"""Adapting a model: what is joined, mixed, imprinted and trained, and what is said about it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import handmade
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.reader import parse_bundle
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.writer import write_bundle
from fieldkit.errors import DataError, IncompatibleBundle, ProgramError, UsageError
from fieldkit.field.adaptation.comparison import HOLD_OUT
from fieldkit.field.adaptation.knowledge import DISTILLED, PROBE, knowledge
from fieldkit.field.adaptation.labelled import Adaptation, adapt
from fieldkit.field.adaptation.lastlayer import STRENGTH, LastLayer, find_last_layer, ridge, solved
from fieldkit.field.adaptation.local import ENOUGH, Local, join
from fieldkit.field.adaptation.mixing import REAL, joined, mixed
from fieldkit.field.compression import compression
from fieldkit.field.datasets import Dataset
from fieldkit.field.endurance.mission import Conditions, Mission
from fieldkit.field.engine.training import train
from fieldkit.field.models import exporting
from fieldkit.field.models.confidence import KEY, calibrate
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.models.reopening import reopen
from fieldkit.field.models.unseen import ADAPTED, history, unseen

KNOWN, ALL, SPARE = 3, 5, 2
SHAPE = (1, 5, 5)
NAMES = tuple(f"kind {index}" for index in range(ALL))


def some(count: int, classes: range, seed: int) -> Samples:
    """``count`` images of each of these of the five classes."""
    found = handmade.images(count * ALL, SHAPE, ALL, seed)
    return found.take(np.flatnonzero(np.isin(found.targets, list(classes))))


def bundle_of_three(probe: bool = True) -> Bundle:
    """A bundle of the first three classes with two spare ones."""
    recipe = handmade.recipe(shape=SHAPE, classes=ALL, spare=SPARE, batch=12, unlabelled=True)
    made = handmade.bundle(recipe, classes=KNOWN, shape=SHAPE)
    distilled = some(4, range(KNOWN), 1)
    whole = replace(
        made,
        manifest=replace(made.manifest, spare_classes=SPARE),
        images=Pixels.encode(distilled.images.astype(np.float32), "uint8"),
        labels=np.eye(KNOWN, dtype=np.float16)[distilled.targets],
        probe=some(10, range(KNOWN), 2) if probe else None,
    )
    return parse_bundle(write_bundle(whole), "three")


def data_of(samples: Samples, classes: tuple[str, ...], test: Samples | None = None) -> Dataset:
    return Dataset(samples, test, classes, "own", "", "", ("grey",))


BUNDLE = bundle_of_three()
MODEL = reopen(exporting.export(train(BUNDLE, seed=3), BUNDLE), BUNDLE)
NEW = data_of(
    Samples(some(10, range(KNOWN, ALL), 4).images, some(10, range(KNOWN, ALL), 4).targets - KNOWN), NAMES[KNOWN:]
)


def mission() -> Mission:
    return Mission(None, Conditions(threads=1))


def shares_right(model: bytes) -> tuple[float, float]:
    """How many of the known and of the new classes' unseen images the model gets right."""
    unseen = some(40, range(ALL), 9)
    predictor = Predictor.open(model)
    right = predictor.predict(unseen.images).argmax(1) == unseen.targets
    return right[unseen.targets < KNOWN].mean(), right[unseen.targets >= KNOWN].mean()


def test_new_classes_are_learnt_and_known_ones_kept() -> None:
    made = adapt(MODEL, BUNDLE, NEW, Adaptation(hold_out=0.3), mission().train)
    known, new = shares_right(made.content)
    assert known > 0.95
    assert new > 0.95
    assert Predictor.open(made.content).classes == NAMES
    local, probe = made.comparisons
    assert (local.where, probe.where) == (HOLD_OUT, PROBE)
    assert local.part(local.before, new=True) == 0.0
    assert local.part(local.after, new=True) == 1.0
    assert local.part(local.before, new=False) is None
    assert probe.known == KNOWN
    assert probe.part(probe.after, new=True) is None
    assert made.to_json()["probe"] == {"learnt": 15, "measured": probe.after.count} == {"learnt": 15, "measured": 15}


def test_without_a_hold_out_only_the_probe_is_measured() -> None:
    made = adapt(MODEL, BUNDLE, NEW, Adaptation("full", hold_out=0.0, replay=0.0, steps=5), mission().train)
    assert [each.where for each in made.comparisons] == [PROBE]
    assert len(made.local.train) == len(NEW.train)


def test_a_model_says_what_it_was_adapted_to_and_can_be_adapted_again() -> None:
    first = adapt(
        MODEL, BUNDLE, replace(NEW, train=some(6, range(3, 4), 4), classes=NAMES), Adaptation(seed=7), mission().train
    )
    again = reopen(first.content, BUNDLE)
    assert again.classes == NAMES[:4]
    second = adapt(again, BUNDLE, NEW, Adaptation("full", steps=30), mission().train)
    assert Predictor.open(second.content).classes == NAMES
    told = history(reopen(second.content, BUNDLE).metadata)
    assert [(each["new"], each["seed"], each["steps"]) for each in told] == [
        (["kind 3"], 7, 0),
        (["kind 4"], 0, 30),
    ]


def test_a_bundle_without_probe_is_measured_on_its_distilled_set() -> None:
    bundle = bundle_of_three(probe=False)
    model = reopen(exporting.export(train(bundle), bundle), bundle)
    made = adapt(model, bundle, NEW, Adaptation("full", hold_out=0.0, steps=5), mission().train)
    assert [each.where for each in made.comparisons] == [DISTILLED]
    assert made.comparisons[0].before.count == len(bundle.images)


def test_the_same_call_gives_the_same_bytes() -> None:
    models = {adapt(MODEL, BUNDLE, NEW, Adaptation("full", steps=8, seed=5), mission().train).content for _ in range(2)}
    other = adapt(MODEL, BUNDLE, NEW, Adaptation("full", steps=8, seed=6), mission().train).content
    assert len(models) == 1
    assert other not in models


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_joining_keeps_every_sample_once_under_its_name(drawn: st.DataObject) -> None:
    names = tuple(drawn.draw(st.permutations(["kind 0", "kind 2", "kind 8", "kind 9"])))
    targets = np.array(drawn.draw(st.lists(st.integers(0, 3), min_size=1, max_size=40)), np.int64)
    images = np.arange(len(targets), dtype=np.uint8)[:, None, None, None] * np.ones(SHAPE, np.uint8)
    share = drawn.draw(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9]))
    local = join(data_of(Samples(images, targets), names), BUNDLE.manifest, NAMES[:KNOWN], hold_out=share, seed=1)
    present = [name for index, name in enumerate(names) if index in targets]
    assert local.classes == (*NAMES[:KNOWN], *(name for name in present if name not in NAMES[:KNOWN]))
    assert local.known == KNOWN
    parts = [local.train] + ([local.held_out] if local.held_out is not None else [])
    pairs = [
        (int(image[0, 0, 0]), local.classes[place])
        for part in parts
        for image, place in zip(*vars(part).values(), strict=True)
    ]
    assert sorted(pairs) == [(index, names[target]) for index, target in enumerate(targets)]
    out = Counter() if local.held_out is None else Counter(local.held_out.targets.tolist())
    for index, count in Counter(targets.tolist()).items():
        taken = out[local.classes.index(names[index])]
        assert taken < count
        assert taken == 0 if share == 0 or count < ENOUGH else taken == min(max(round(share * count), 1), count - 1)


def test_a_test_split_is_what_is_held_out() -> None:
    test = some(3, range(KNOWN), 8)
    local = join(
        data_of(some(4, range(KNOWN), 7), NAMES[:KNOWN], test), BUNDLE.manifest, NAMES[:KNOWN], hold_out=0.5, seed=0
    )
    assert len(local.train) == 12
    assert local.held_out is not None
    assert np.array_equal(local.held_out.images, test.images)


def test_what_does_not_fit_is_refused() -> None:
    many = data_of(some(3, range(ALL), 0), ("a", "b", "c", "d", "e"))
    with pytest.raises(
        UsageError, match=r"no room for these classes; found 5 new classes: a, b, c, d, e; expected at most 2"
    ):
        adapt(MODEL, BUNDLE, many, Adaptation(), mission().train)
    wrong = data_of(handmade.images(6, (1, 4, 4), 3), NAMES[:KNOWN])
    with pytest.raises(
        DataError, match=r"images \(bands, height, width\) are \(1, 4, 4\), the bundle's are \(1, 5, 5\)"
    ):
        adapt(MODEL, BUNDLE, wrong, Adaptation(), mission().train)
    stray = data_of(some(3, range(1), 0), ("kind 0", "x"), Samples(some(3, range(1), 0).images, np.ones(3, np.int64)))
    with pytest.raises(DataError, match="class 'x' is new and has test images, but none to train with"):
        adapt(MODEL, BUNDLE, stray, Adaptation(), mission().train)
    for bad in (
        Adaptation(hold_out=1.0),
        Adaptation(replay=1.0),
        Adaptation(steps=0),
        Adaptation("full", rate=0.0),
        Adaptation("norm-bias"),
        Adaptation("x"),
    ):
        with pytest.raises(UsageError):
            adapt(MODEL, BUNDLE, NEW, bad, mission().train)


@given(
    st.lists(st.integers(0, ALL - 1), min_size=1, max_size=12), st.sampled_from([None, 0.0, 0.25, 0.9]), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_every_sample_is_in_one_group_and_shares_are_as_asked(
    targets: list[int], replay: float | None, learn_probe: bool
) -> None:
    places = np.array(targets, np.int64)
    local = Local("own", NAMES, SPARE, Samples(np.zeros((len(places), *SHAPE), np.uint8), places), None)
    known = knowledge(BUNDLE, {}, learn_probe=learn_probe)
    samples = joined(local, known, replay)
    groups, shares = zip(*mixed(local, known, replay), strict=True)
    own, real = len(places), 15 if learn_probe else 0
    distilled = own + len(known.distilled)
    assert sorted(np.concatenate(groups)) == list(range(len(samples)))
    assert len(samples) == (own if replay == 0.0 else distilled + real)
    assert np.array_equal(samples.targets[:own], np.eye(ALL)[places])
    if replay != 0.0:
        assert np.array_equal(samples.targets[own:distilled, :KNOWN], known.distilled.targets)
        assert not samples.targets[own:, KNOWN:].any()
        assert samples.targets[distilled:].sum() == real
    classes = [set(samples.targets[group].argmax(1)) for group in groups]
    assert all(len(each) == 1 for each in classes)
    parts, sides = Counter[int](), Counter[str]()
    for group, share in zip(groups, shares, strict=True):
        parts[int(samples.targets[group[0]].argmax())] += share
        sides["own" if group[0] < own else "distilled" if group[0] < distilled else "real"] += share
    if replay is None:
        assert np.allclose(list(parts.values()), 1.0)
    else:
        assert sides["own"] / sum(shares) == pytest.approx(1 - replay)
    if replay != 0.0:
        assert sides["real"] == pytest.approx(REAL * (sides["real"] + sides["distilled"]) if learn_probe else 0.0)


@given(st.lists(st.integers(0, KNOWN - 1), min_size=1, max_size=20))
def test_half_of_each_classs_probe_is_learnt_and_the_rest_measures(targets: list[int]) -> None:
    probe = Samples(np.arange(len(targets), dtype=np.uint8)[:, None, None, None], np.array(targets, np.int64))
    bundle = replace(BUNDLE, probe=probe)
    found = knowledge(bundle, {}, learn_probe=True)
    assert found.probe is not None
    learnt = [] if not found.real else found.real[0].images.ravel().tolist()
    assert sorted([*learnt, *found.probe.images.ravel().tolist()]) == list(range(len(targets)))
    for index, count in Counter(targets).items():
        assert [targets[each] for each in learnt].count(index) == count // 2
    kept = knowledge(bundle, {})
    assert kept.real == ()
    assert kept.measured == (PROBE, probe)


@pytest.mark.parametrize("options", [Adaptation(keep_probe=True), Adaptation(replay=0.0)])
def test_a_probe_that_nothing_is_learnt_from_measures_whole(options: Adaptation) -> None:
    made = adapt(MODEL, BUNDLE, NEW, options, mission().train)
    assert made.probe_learnt == 0
    assert made.comparisons[-1].after.count == 30


def test_what_was_learnt_from_never_measures_again() -> None:
    first = adapt(MODEL, BUNDLE, NEW, Adaptation(), mission().train)
    again = reopen(first.content, BUNDLE)
    assert len(unseen(BUNDLE, again.metadata) or ()) == 15
    for options in (Adaptation(), Adaptation(keep_probe=True), Adaptation(replay=0.0)):
        second = adapt(again, BUNDLE, NEW, options, mission().train)
        assert second.comparisons[-1].after.count == 15
        assert len(unseen(BUNDLE, reopen(second.content, BUNDLE).metadata) or ()) == 15
    assert compression.compress(first.content, BUNDLE, fp16=True, threads=1).probe == 15
    for made, count in ((first.content, 15), (MODEL.content, 30)):
        assert json.loads(reopen(calibrate(made, BUNDLE), BUNDLE).metadata[KEY])["samples"] == count
    other = replace(BUNDLE, probe=some(10, range(KNOWN), 3))
    assert len(unseen(other, again.metadata) or ()) == 30


@pytest.mark.parametrize("told", ["", "[", "5", '{"probe": 1}', "[1]", "[" * 100_000])
def test_a_history_that_makes_no_sense_is_refused(told: str) -> None:
    with pytest.raises(ProgramError, match="history"):
        history({ADAPTED: told})


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(4, 12), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_ridge_is_the_least_of_what_it_minimises(seed: int, count: int, samples: int, width: int) -> None:
    """Against the normal equations of all unknowns together, offsets included, in both of its spaces."""
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(count), rng.integers(0, count, samples)])
    rows, shares = rng.normal(size=(len(targets), width)), rng.random(len(targets)) + 0.1
    found, offsets = ridge(rows, targets, shares)
    share = shares / shares.sum()
    centred = rows - share @ rows
    strength = STRENGTH * float((share[:, None] * centred**2).sum()) / width
    whole = np.hstack([rows, np.ones((len(rows), 1))])
    damping = strength * np.diag([1.0] * width + [0.0])
    expected = np.linalg.solve(
        whole.T @ (share[:, None] * whole) + damping, whole.T @ (share[:, None] * np.eye(count)[targets])
    )
    assert np.allclose(found.T, expected[:-1], atol=1e-8)
    assert np.allclose(offsets, expected[-1], atol=1e-8)


def test_the_last_layer_is_found_and_solved_from_what_it_reads() -> None:
    assert find_last_layer(MODEL.content) == LastLayer("weight", "bias")
    fresh, known = some(5, range(KNOWN, ALL), 6), knowledge(BUNDLE, {}).counts
    images, targets = np.concatenate([fresh.images, known.images]), np.concatenate([fresh.targets, known.targets])
    made = solved(MODEL.content, MODEL.weights, images, targets, np.ones(len(images)))
    assert made is not None
    features = (images.reshape(len(images), -1).astype(np.float64) - 100.0) / 50.0
    rows, offsets = ridge(features, targets, np.ones(len(images)))
    scale = np.linalg.norm(MODEL.weights["weight"], axis=1).mean() / np.linalg.norm(rows, axis=1).mean()
    assert np.allclose(made["weight"], scale * rows, atol=1e-4)
    assert np.allclose(made["bias"], scale * offsets, atol=1e-4)


def test_outputs_without_samples_and_a_single_class_keep_their_rows() -> None:
    known = knowledge(BUNDLE, {}).counts
    made = solved(MODEL.content, MODEL.weights, known.images, known.targets, np.ones(len(known)))
    assert made is not None
    assert np.array_equal(made["weight"][KNOWN:], MODEL.weights["weight"][KNOWN:])
    assert not np.array_equal(made["weight"][:KNOWN], MODEL.weights["weight"][:KNOWN])
    alone = known.take(np.flatnonzero(known.targets == 0))
    assert solved(MODEL.content, MODEL.weights, alone.images, alone.targets, np.ones(len(alone))) is None


def test_weights_are_read_back_as_they_were_written() -> None:
    trained = train(BUNDLE, seed=3)
    assert {name: each.tobytes() for name, each in MODEL.weights.items()} == {
        name: each.tobytes() for name, each in trained.weights.items()
    }


def test_models_that_do_not_fit_the_bundle_are_refused() -> None:
    other = bundle_of_three(probe=False)
    with pytest.raises(IncompatibleBundle, match="comes from another bundle"):
        reopen(MODEL.content, other)
    assert reopen(MODEL.content, other, other_bundle=True).classes == NAMES[:KNOWN]
    renamed = replace(BUNDLE, recipes={"other": BUNDLE.recipes["linear"]})
    with pytest.raises(IncompatibleBundle, match="no such recipe"):
        reopen(MODEL.content, renamed)
    fewer = replace(BUNDLE, manifest=replace(BUNDLE.manifest, classes=("kind 0", "kind 2", "kind 1")))
    with pytest.raises(IncompatibleBundle, match="knows other classes"):
        reopen(MODEL.content, fewer)
    broken = exporting.complete_model(
        MODEL.recipe.programs["predict"], {**MODEL.weights, "bias": np.zeros(1, np.float32)}, MODEL.metadata, KNOWN
    )
    with pytest.raises(ProgramError, match="does not hold the recipe's weights"):
        reopen(broken, BUNDLE)


def test_what_is_remembered_is_in_the_sensors_counts() -> None:
    where, samples = knowledge(bundle_of_three(probe=False), {}, learn_probe=True).measured
    assert where == DISTILLED
    assert samples.images.dtype == np.uint8
    assert samples.targets.dtype == np.int64
