"""Learning task after task: one head, nothing forgotten, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import handmade
import numpy as np
import onnxruntime
import pytest
import tasks

from fieldkit import Predictor, export_state, first_state, learn, read_bundle, report_state, train
from fieldkit.bundle.recipe import Initial
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import initial_weights
from fieldkit.errors import DataError, IncompatibleBundle, ResourceError, UsageError
from fieldkit.field.engine.training import Trainer
from fieldkit.field.learning.continual import Options, Report, with_limit
from fieldkit.field.learning.state import State, Task
from fieldkit.field.models import exporting
from fieldkit.field.models.features import features, last_read
from fieldkit.field.programs.graph import read_graph

THREE = (0, 2, 4)


def after(*firsts: int, options: Options | None = None, limit: int = 100_000) -> State:
    """The state after these tasks."""
    state = first_state(tasks.bundle(firsts[0]), limit=limit)
    for first in firsts:
        state = learn(state, tasks.bundle(first), options or Options())
    return state


def test_three_tasks_are_known_in_the_end_by_one_head() -> None:
    state = after(*THREE)
    report = report_state(state)
    assert report.accuracy == 1.0
    assert report.forgetting == 0.0
    assert state.manifest.classes == tasks.names(*range(6))
    assert state.manifest.spare_classes == 0
    assert [each.slots for each in state.tasks] == [(0, 1), (2, 3), (4, 5)]
    assert [len(each.scores) for each in state.tasks] == [3, 2, 1]
    assert state.memory.counts(6).tolist() == [3] * 6
    every = handmade.images(60, classes=6, seed=9)
    found = Predictor.open(export_state(state)).predict(every.images)
    assert np.array_equal(found.argmax(1), every.targets)


def test_without_a_memory_the_first_task_is_forgotten() -> None:
    """What replay is worth: the same trainings, each on its own task alone."""
    state, schedule = after(0), tasks.recipe().schedule.with_steps(300)
    samples, labels = tasks.bundle(2).training_set(), np.zeros((6, 4), np.float32)
    labels[:, 2:] = samples.targets
    own, initial = Samples(samples.images, labels), Initial(weights=state.weights)
    trained = Trainer(state.recipe).fit(own, schedule=schedule, initial=initial)
    grown, _ = state.slots(tasks.names(2, 3), "here")
    first = tasks.samples(0, 20, 5)
    found = Predictor.open(export_state(replace(grown, weights=trained.weights))).predict(first.images)
    alone = (found.argmax(1) == first.targets).mean()
    kept = after(0, 2, options=Options(steps=300)).tasks[0].scores[-1]
    assert kept == 1.0
    assert alone < kept


def test_the_first_task_makes_the_model_that_train_makes() -> None:
    bundle = tasks.bundle(0)
    state = learn(first_state(bundle), bundle, Options(seed=5))
    trained = train(bundle, seed=5)
    for name, values in trained.weights.items():
        assert np.array_equal(state.weights[name], values)
    assert (state.seed, state.steps) == (5, bundle.recipes["linear"].schedule.steps)


def test_the_same_tasks_and_seeds_make_the_same_state() -> None:
    one, other, third = after(0, 2), after(0, 2), after(0, 2, options=Options(seed=1))
    for name, values in one.weights.items():
        assert np.array_equal(values, other.weights[name])
        assert not np.array_equal(values, third.weights[name])


def test_anew_begins_at_first_weights_and_goes_on_otherwise() -> None:
    state, bundle = after(0), tasks.bundle(2)
    anew = learn(state, bundle, Options(anew=True, steps=1))
    on = learn(state, bundle, Options(steps=1))
    first = Trainer(state.recipe).begin(0).tensors["param.weight"]
    assert np.abs(anew.weights["weight"] - first).max() < np.abs(on.weights["weight"] - first).max()


def test_what_was_learnt_is_not_learnt_again() -> None:
    state = after(0, 2)
    assert learn(state, tasks.bundle(0), Options(seed=7)) is state
    own = learn(state, tasks.dataset(4, 20))
    assert learn(own, tasks.dataset(4, 20)) is own


def test_a_newer_issue_of_a_bundle_takes_the_place_of_the_older() -> None:
    state = after(0, 2)
    newer = replace(tasks.bundle(0, 5), serial=3)
    replaced = learn(state, newer)
    assert replaced.memory.counts(4).tolist() == [5, 5, 3, 3]
    assert [each.source for each in replaced.tasks] == ["task-0", "task-2", "task-0"]
    beside = learn(state, replace(newer, serial=0))
    assert beside.memory.counts(4).tolist() == [8, 8, 3, 3]


def test_classes_are_joined_by_name() -> None:
    state = after(0, 2)
    turned = tasks.bundle(0, 4, name="again", classes=tasks.names(1, 0))
    learnt = learn(state, turned)
    assert learnt.manifest.classes == tasks.names(0, 1, 2, 3)
    assert learnt.tasks[-1].slots == (0, 1)
    assert learnt.memory.parts[-1].classes.tolist() == [1 - each for each in learnt.memory.parts[0].classes[[0, 1] * 4]]


def test_a_bundle_that_names_all_classes_and_shows_some_needs_no_spare_ones() -> None:
    chosen = handmade.recipe(classes=6, steps=60)
    labels = np.zeros((6, 6), np.float16)

    def naming_all(first: int) -> object:
        made = tasks.bundle(first, probe=0, chosen=chosen)
        own = labels.copy()
        own[:, first : first + 2] = made.labels
        manifest = replace(made.manifest, classes=tasks.names(*range(6)), spare_classes=0)
        return replace(made, manifest=manifest, labels=own)

    state = first_state(naming_all(0))  # type: ignore[arg-type]
    for first in THREE:
        state = learn(state, naming_all(first))  # type: ignore[arg-type]
    assert [each.slots for each in state.tasks] == [(0, 1), (2, 3), (4, 5)]
    every = handmade.images(60, classes=6, seed=9)
    found = Predictor.open(export_state(state)).predict(every.images)
    assert np.array_equal(found.argmax(1), every.targets)


def test_a_memory_too_small_for_a_distilled_set_keeps_what_fits() -> None:
    state = after(0, 2, limit=380)
    assert state.memory.bytes <= 380
    assert len(state.memory) < 12
    assert (state.memory.counts(4) >= 2).all()
    smaller = with_limit(state, 250)
    assert smaller.memory.bytes <= 250
    assert with_limit(smaller, 5000).memory.parts == smaller.memory.parts


def test_a_memory_of_the_size_that_a_refusal_names_is_large_enough() -> None:
    state = after(0, 2, limit=380)
    with pytest.raises(ResourceError) as refused:
        with_limit(state, 40)
    needed = int(str(refused.value.expected).split()[2])
    assert with_limit(state, needed).memory.counts(4).tolist() == [1, 1, 1, 1]


def test_a_memory_too_small_for_the_classes_is_refused_before_a_training() -> None:
    state = after(0, limit=130)
    with pytest.raises(ResourceError, match="too small to keep an image of every class"):
        learn(state, tasks.bundle(2), Options(steps=10**9))
    with pytest.raises(UsageError, match="at least 1 byte"):
        first_state(tasks.bundle(0), limit=0)


@pytest.mark.parametrize("choice", ["herding", "reservoir"])
def test_own_samples_are_learnt_and_as_many_kept_as_fit(choice: str) -> None:
    state = learn(after(0, limit=3000), tasks.dataset(2, 200), Options(choice=choice))
    assert state.memory.bytes <= 3000
    counts = state.memory.counts(4)
    assert counts[:2].tolist() == [3, 3]
    assert counts[2] == pytest.approx(counts[3], abs=1)
    assert counts[2] > 40
    own = state.memory.parts[-1]
    assert (own.kind, own.labels, own.pixels.scale.tolist()) == ("own", None, [1.0])
    train = tasks.dataset(2, 200).train
    for codes, slot in zip(own.pixels.codes, own.classes, strict=True):
        (same,) = np.flatnonzero((train.images == codes).all(axis=(1, 2, 3)))
        assert train.targets[same] + 2 == slot
    report = report_state(state)
    assert report.accuracy == 1.0
    later = learn(state, tasks.bundle(4))
    assert later.memory.bytes <= 3000
    assert later.memory.counts(6)[4:].tolist() == [3, 3]
    assert report_state(later).accuracy == 1.0


def test_own_samples_of_16_bits_are_kept_in_8() -> None:
    chosen = tasks.recipe(dtype="uint16")
    deep = replace(handmade.bundle().manifest.radiometry, dtype="uint16", mean=(100.0,), std=(50.0,))
    base = tasks.bundle(0, probe=0, chosen=chosen, radiometry=deep)
    state = learn(first_state(base), base)
    data = tasks.dataset(2, 30)
    wide = replace(data, train=replace(data.train, images=data.train.images.astype(np.uint16) * 3), test=None)
    own = learn(state, wide).memory.parts[-1]
    assert own.pixels.codes.dtype == np.uint8
    error = np.abs(own.pixels.decode()[:, None] - wide.train.images[None].astype(np.float32)).max(axis=(2, 3, 4))
    assert error.min(axis=1).max() <= own.pixels.scale[0] / 2 + 1e-3


def test_remembered_answers_are_mixed_into_labels() -> None:
    state = after(0, 2, options=Options(answers=0.5))
    first, second = state.memory.parts
    assert first.answers is not None
    assert second.answers is not None
    assert (first.answers.shape, second.answers.shape) == ((6, 2), (6, 4))
    alone = Predictor.open(export_state(after(0, options=Options(answers=0.5))))
    shown = np.rint(first.pixels.decode()).astype(np.uint8)
    assert np.array_equal(first.answers, alone.predict(shown).astype(np.float16))
    bytes_without = after(0, 2).memory.bytes
    assert state.memory.bytes == bytes_without + 2 * first.answers.size + 2 * second.answers.size
    mixed = state.memory.samples((4, 4), 4, 0.5).targets
    assert np.allclose(mixed.sum(axis=1), 1.0, atol=2e-3)


@pytest.mark.parametrize("options", [{"answers": 1.5}, {"answers": -0.1}, {"choice": "luck"}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Options(**options)  # type: ignore[arg-type]


def test_a_bundle_of_another_model_or_sensor_is_refused_with_all_reasons() -> None:
    state = after(0)
    other = tasks.bundle(2)
    recipe = replace(other.recipes["linear"], architecture={"name": "other"})
    radiometry = replace(other.manifest.radiometry, bands=("near infrared",))
    foreign = replace(other, recipes={"linear": recipe}, manifest=replace(other.manifest, radiometry=radiometry))
    with pytest.raises(IncompatibleBundle, match=r"recipes are .*; its bands are"):
        learn(state, foreign)


def test_more_classes_than_spare_ones_are_refused() -> None:
    state = after(*THREE)
    with pytest.raises(UsageError, match=r"more new classes than spare ones.*kind 7"):
        learn(state, tasks.bundle(0, classes=tasks.names(7, 8)))


def test_own_samples_of_another_sensor_are_refused_with_all_reasons() -> None:
    data = tasks.dataset(2, 5)
    wide = replace(data, train=replace(data.train, images=np.zeros((10, 1, 5, 4), np.uint16)))
    with pytest.raises(DataError, match="2 faults"):
        learn(after(0), wide)


def test_nothing_learnt_has_no_model() -> None:
    with pytest.raises(UsageError, match="nothing has been learnt"):
        export_state(first_state(tasks.bundle(0)))


def test_what_measures_is_at_most_200_images_and_balanced() -> None:
    state = after(0)
    tested, untested = tasks.dataset(2, 20, test=300), tasks.dataset(2, 600, test=0)
    for data in (tested, untested):
        probe = learn(state, data, Options(steps=2)).tasks[-1].probe
        assert probe is not None
        assert np.bincount(probe.targets, minlength=4).tolist() == [0, 0, 100, 100]


def test_without_a_test_split_a_part_of_the_own_samples_measures() -> None:
    state = learn(after(0), tasks.dataset(2, 20, test=0))
    probe = state.tasks[-1].probe
    assert probe is not None
    assert np.bincount(probe.targets, minlength=4).tolist() == [0, 0, 4, 4]
    kept = {each.tobytes() for each in state.memory.parts[-1].pixels.codes}
    assert not kept & {each.tobytes() for each in probe.images}


def test_accuracy_and_forgetting_are_those_of_the_papers() -> None:
    state = after(0)
    scores = ((0.9, 0.7, 0.8), (1.0, 0.6), (0.5,), (None,))
    made = tuple(Task("distilled", f"{n}", f"{n}", 0, (0,), scores=each) for n, each in enumerate(scores))
    report = report_state(replace(state, tasks=made))
    assert report.accuracy == pytest.approx((0.8 + 0.6 + 0.5) / 3)
    assert report.forgetting == pytest.approx(((0.9 - 0.8) + (1.0 - 0.6)) / 2)
    empty = report_state(first_state(tasks.bundle(0)))
    assert (empty.accuracy, empty.forgetting) == (None, None)
    assert isinstance(report, Report)


def test_features_are_what_the_last_layer_reads() -> None:
    state = after(0)
    model = export_state(state)
    images = tasks.samples(0, 40).images
    found = features(model, images)
    assert found.shape == (80, 16)
    assert np.allclose(found, (images.reshape(80, -1).astype(np.float32) - 100.0) / 50.0)
    logits = found @ state.weights["weight"].T + state.weights["bias"]
    wanted = np.exp(logits[:, :2]) / np.exp(logits[:, :2]).sum(1, keepdims=True)
    assert np.allclose(Predictor.open(model).predict(images), wanted, atol=1e-5)


def test_a_model_without_a_layer_is_seen_by_its_probabilities() -> None:
    nodes = [
        handmade.node("Cast", ["images"], "float", to=1),
        handmade.node("Flatten", ["float"], "flat", axis=1),
        handmade.node("Softmax", ["flat"], "probabilities", axis=1),
    ]
    inputs = [handmade.value_info("images", ("N", 1, 1, 3), "uint8")]
    model = handmade.model(nodes, inputs, [handmade.value_info("probabilities", ("N", 3))], {})
    assert last_read(read_graph(model, "model")) is None
    images = np.array([[[[1, 2, 3]]], [[[0, 0, 0]]]], np.uint8)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert np.allclose(features(model, images), np.log(session.run(None, {"images": images})[0]), atol=1e-5)


@pytest.mark.parametrize("name", ["mnist-1", "mstar-10"])
def test_a_compiled_networks_features_lead_to_its_probabilities(name: str, request: pytest.FixtureRequest) -> None:
    bundle = read_bundle(request.config.rootpath / "bundles" / f"{name}.h5")
    recipe = bundle.recipes["convnet"]
    weights = initial_weights(recipe.parameters, recipe.initial, 1)
    model = exporting.complete_model(recipe.programs["predict"], weights, {})
    images = bundle.images.codes[:5]
    logits = features(model, images) @ weights["head.weight"].T + weights["head.bias"]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    assert np.allclose(found, shares / shares.sum(axis=1, keepdims=True), atol=1e-4)
