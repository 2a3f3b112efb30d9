"""Labels of the user's choice and starts of pixels, for every method; what the manifest says of both."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_distil import SETTINGS, problem

from fieldkit.bundle.enlarging import enlarge
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.recipe import Augmentation
from fieldkit.cli.build import labelling
from fieldkit.errors import UsageError
from fieldkit.hq.building import build
from fieldkit.hq.distil import METHODS, labels, start
from fieldkit.hq.distil.driver import Budget
from fieldkit.hq.distil.experts import Lessons, train_expert
from fieldkit.hq.distil.images import STARTS
from fieldkit.hq.distil.labels import Labels, Teaching, labelled
from fieldkit.hq.provenance import described_method
from fieldkit.hq.spec import RecipeSpec, Spec, check

pytestmark = pytest.mark.hq

FAST = Teaching(teachers=2, epochs=2, rate=0.05)


def are_hard(found: np.ndarray) -> bool:
    return set(np.unique(found)) <= {0.0, 1.0}


@pytest.mark.parametrize("name", sorted(METHODS))
class TestContract:
    """The table tells the truth: it is what ``build`` refuses wishes by, and what the manifest records."""

    def test_labels_are_of_the_methods_own_kind(self, name: str) -> None:
        made = start(name, problem(), SETTINGS[name])
        made.step(0.0)
        assert are_hard(made.snapshot().labels) == (METHODS[name].labels == "hard")

    def test_labels_are_learned_where_the_method_can(self, name: str) -> None:
        made = start(name, replace(problem(), labels="learned"), SETTINGS[name])
        before = made.snapshot().labels
        made.step(0.0)
        assert METHODS[name].learns or METHODS[name].labels == "teacher" or are_hard(made.snapshot().labels)
        if METHODS[name].learns:
            assert (made.snapshot().labels != before).any()

    def test_labels_are_hard_on_demand(self, name: str) -> None:
        posed = replace(problem(), labels="hard")
        made = labelled(start(name, posed, SETTINGS[name]), posed, Labels("hard"))
        made.step(0.0)
        np.testing.assert_array_equal(made.snapshot().labels, np.eye(3)[posed.targets])

    def test_pixels_start_where_the_table_says(self, name: str) -> None:
        own = METHODS[name].starts
        if own == "own":
            pytest.skip("its pixels are none before it has learnt to make some")
        first = start(name, problem(), SETTINGS[name]).snapshot().images
        others = [start(name, replace(problem(), start=each), SETTINGS[name]).snapshot().images for each in STARTS]
        same = [each for each, images in zip(STARTS, others, strict=True) if np.array_equal(images, first)]
        assert same == (list(STARTS) if own is None else [own])


class TestTeachers:
    @pytest.mark.parametrize("temperature", [1.0, 4.0])
    def test_labels_are_the_mean_answer_to_the_stored_images(self, temperature: float) -> None:
        posed = replace(problem(formation=2), levels=16)
        made = start("random", posed, {})
        taught = labelled(made, posed, Labels("teacher", replace(FAST, temperature=temperature)))
        taught.step(0.0)
        snapshot = taught.snapshot()
        stored = enlarge(Pixels.encode(made.snapshot().images, "uint8", 16).decode(), 8, 8)
        pixels = posed.normalise(torch.from_numpy(stored))
        experts = [train_expert(posed, Lessons(epochs=2, rate=0.05), seed) for seed in range(2)]
        said = [torch.softmax(posed.answers(each, pixels) / temperature, dim=1) for each in experts]
        np.testing.assert_allclose(snapshot.labels, ((said[0] + said[1]) / 2).numpy(), atol=1e-5)
        np.testing.assert_array_equal(snapshot.images, made.snapshot().images)

    def test_more_temperature_makes_softer_labels(self) -> None:
        posed = problem()
        sharp, soft = (
            labelled(start("random", posed, {}), posed, Labels("teacher", replace(FAST, temperature=each))).snapshot()
            for each in (0.5, 5.0)
        )
        assert soft.labels.max(axis=1).mean() < sharp.labels.max(axis=1).mean()

    def test_a_restored_run_says_the_same(self) -> None:
        posed = problem(augmentation=Augmentation(shift=0.1))
        whole, resumed = (
            labelled(start("distribution", posed, SETTINGS["distribution"]), posed, Labels("teacher", FAST))
            for _ in range(2)
        )
        whole.step(0.0)
        resumed.restore(whole.state())
        np.testing.assert_array_equal(resumed.snapshot().labels, whole.snapshot().labels)
        np.testing.assert_array_equal(resumed.snapshot().images, whole.snapshot().images)

    def test_the_teachers_train_in_the_first_iteration(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []
        monkeypatch.setattr(labels.Teachers, "trained", lambda problem, count, lessons: asked.append(count))
        monkeypatch.setattr(labels, "replace", lambda made, **changes: made)
        posed = problem()
        made = labelled(start("random", posed, {}), posed, Labels("teacher", FAST))
        assert asked == []
        made.step(0.0)
        made.step(0.5)
        assert asked == [2]

    def test_a_set_that_diverged_is_left_to_the_driver(self) -> None:
        posed = problem()
        made = start("distribution", posed, SETTINGS["distribution"])
        made.distilled.pixels.data[0] = float("nan")
        assert np.isnan(labelled(made, posed, Labels("teacher", FAST)).snapshot().images).any()


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    return Spec(str(tmp_path / "data.npz"), method="distribution")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start": "moon"}, "unknown start; found moon; expected real, centres, means, noise"),
        ({"start": "noise", "method": "random"}, "moves no pixels"),
        ({"labels": Labels("learned")}, "method distribution: the method cannot learn labels.*trajectory"),
    ],
)
def test_what_a_method_cannot_do_is_refused(spec: Spec, change: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(replace(spec, **change), Path("out.h5"))


@pytest.mark.parametrize("kind", ["teacher", "hard"])
def test_labels_that_need_nothing_of_the_method_are_allowed_everywhere(spec: Spec, kind: str) -> None:
    for name in METHODS:
        check(replace(spec, method=name, labels=Labels(kind)), Path("out.h5"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"start": "real", "labels": {"kind": "hard"}}),
        ({"start": "noise"}, {"start": "noise", "labels": {"kind": "hard"}}),
        ({"method": "unrolled"}, {"start": "centres", "labels": {"kind": "learned"}}),
        ({"method": "unrolled", "labels": Labels("hard")}, {"start": "centres", "labels": {"kind": "hard"}}),
        ({"method": "random", "labels": Labels("teacher", FAST)},
         {"labels": {"kind": "teacher", "teachers": 2, "epochs": 2, "rate": 0.05, "temperature": 1.0, "views": 8}}),
    ],
)  # fmt: skip
def test_the_manifest_says_where_pixels_started_and_who_labelled_them(
    spec: Spec, change: dict[str, object], expected: dict[str, object]
) -> None:
    found = described_method(replace(spec, **change))
    assert found.pop("ipc") == 10
    assert found.pop("name") == change.get("method", "distribution")
    assert found.pop("settings") == {}
    assert found == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hard", Labels("hard")),
        ("teacher", Labels("teacher")),
        ("teacher:teachers=5,temperature=2", Labels("teacher", Teaching(teachers=5, temperature=2))),
    ],
)
def test_labels_of_the_command_line(text: str, expected: Labels) -> None:
    assert labelling(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wrong", "unknown kind of labels; found wrong; expected hard, teacher, learned"),
        ("hard:teachers=2", "only teachers have settings"),
        ("teacher:pupils=2", "no such setting; found pupils"),
        ("teacher:teachers=0", "labels teachers: out of range; found 0; expected a whole number above 0"),
        ("teacher:temperature=0", "labels temperature: out of range"),
        ("teacher:views=1.5", "labels views: out of range"),
    ],
)
def test_labels_that_make_no_sense(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        labelling(text)


def test_a_method_works_with_hard_labels_until_the_teachers_speak() -> None:
    assert [Labels(kind).meanwhile for kind in labels.KINDS] == ["hard", "hard", "learned"]


def test_a_build_keeps_what_was_wished_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(90) % 3
    images = rng.integers(0, 80, (90, 8, 8))
    for index, target in enumerate(targets):
        images[index, :, 2 * target : 2 * target + 3] += 150
    np.savez(tmp_path / "bars.npz", x_train=images.astype(np.uint8), y_train=targets)
    spec = Spec(
        str(tmp_path / "bars.npz"),
        ipc=1,
        method="trajectory",
        settings=SETTINGS["trajectory"],
        start="noise",
        labels=Labels("teacher", FAST),
        recipes=(RecipeSpec("convnet", {"depth": 2, "width": 4}),),
        steps=3,
        budget=Budget(iterations=2),
        threads=1,
    )
    bundle = build(spec, tmp_path / "bars.h5").bundle
    assert bundle.manifest.method["start"] == "noise"
    assert bundle.manifest.method["labels"]["kind"] == "teacher"
    assert not are_hard(bundle.labels)
    experts = [json.loads(path.read_text())["lessons"] for path in tmp_path.glob("fieldkit-cache/*/*/about.json")]
    assert sorted(each["epochs"] for each in experts) == [2, 3]
