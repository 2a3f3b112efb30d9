"""Adapting without labels: the entropy program, what is replayed beside, and the guard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
from PIL import Image

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.reader import parse_bundle
from fieldkit.bundle.recipe import UNLABELLED
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import initial_weights
from fieldkit.bundle.writer import write_bundle
from fieldkit.errors import DataError, UsageError
from fieldkit.field.adaptation.unlabelled import UnlabelledAdaptation, adapt_unlabelled, plan, read_unlabelled
from fieldkit.field.endurance.mission import Conditions, Job, Mission
from fieldkit.field.engine.training import Trained, Trainer, train
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.models.reopening import Reopened, reopen


def opened(**settings: bool) -> tuple[Bundle, Reopened]:
    bundle = parse_bundle(write_bundle(handmade.bundle(handmade.recipe(unlabelled=True, **settings))), "own")
    return bundle, reopen(exporting.export(train(bundle), bundle), bundle)


BUNDLE, MODEL = opened()
SHIFTED = (handmade.images(40, seed=5).images // 2).astype(np.uint8)


def mission() -> Mission:
    return Mission(None, Conditions(threads=1))


def test_a_step_makes_rows_without_labels_surer_and_fits_those_with_labels() -> None:
    recipe = BUNDLE.recipes["linear"]
    samples = handmade.images(8, seed=7)
    targets = np.eye(3, dtype=np.float32)[samples.targets]
    targets[::2] = 0.0
    mixed = Samples(samples.images.astype(np.float32), targets)
    trainer = Trainer(recipe, scope=UNLABELLED, threads=1)
    state = trainer.begin(4)
    schedule = replace(recipe.schedule, steps=1, kind="constant", rate=0.1, warmup=0)
    ((_, loss),) = trainer.run(mixed, state, seed=4, schedule=schedule)
    weights = {
        name: each.astype(np.float64) for name, each in initial_weights(recipe.parameters, recipe.initial, 4).items()
    }
    x = (mixed.images.reshape(8, -1).astype(np.float64) - 100.0) / 50.0

    def value(weight: np.ndarray, bias: np.ndarray) -> float:
        logits = x @ weight.T + bias
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        wanted = np.where(targets.sum(1, keepdims=True) > 0, targets, np.exp(logp))
        return float(-(wanted * logp).sum(1).mean())

    assert loss == pytest.approx(value(weights["weight"], weights["bias"]), rel=1e-5)
    moved = trainer.weights()
    for index in np.ndindex(*weights["bias"].shape):
        nudged = weights["bias"].copy()
        nudged[index] += 1e-5
        slope = (value(weights["weight"], nudged) - value(**weights)) / 1e-5
        assert (weights["bias"] - moved["bias"])[index] == pytest.approx(0.1 * slope, abs=1e-5)


def test_the_model_gets_surer_of_the_images_and_keeps_what_it_knows() -> None:
    made = adapt_unlabelled(MODEL, BUNDLE, SHIFTED, UnlabelledAdaptation(rate=0.05), mission().train, name="new")
    assert made.sureness.entropy_after < made.sureness.entropy_before
    assert made.comparison.after.accuracy == 1.0
    assert made.sureness.images == 40
    assert Predictor.open(made.content).classes == MODEL.classes


def test_a_change_that_costs_too_much_is_refused() -> None:
    def spoil(job: Job, *, closing: float) -> Trained:
        trained = mission().train(job, closing=closing)
        return replace(trained, weights={name: -each for name, each in trained.weights.items()})

    with pytest.raises(
        DataError, match=r"gets \d+\.\d % of the probe right, down from 100\.0 %: more than 2\.0 points"
    ):
        adapt_unlabelled(MODEL, BUNDLE, SHIFTED, UnlabelledAdaptation(), spoil)
    made = adapt_unlabelled(MODEL, BUNDLE, SHIFTED, UnlabelledAdaptation(tolerance=1.0), spoil)
    assert made.comparison.after.accuracy < 0.5


@pytest.mark.parametrize(("replay", "rows"), [(0.5, 6), (0.0, 0), (0.25, 6)])
def test_what_is_replayed_has_labels_and_what_is_new_has_none(replay: float, rows: int) -> None:
    job = plan(MODEL, BUNDLE, SHIFTED, UnlabelledAdaptation(replay=replay))
    assert job.scope == UNLABELLED
    assert len(job.samples) == 40 + rows
    assert not job.samples.targets[:40].any()
    assert np.allclose(job.samples.targets[40:].sum(1), 1.0, atol=1e-2)


def test_a_recipe_without_the_program_says_how_to_get_it() -> None:
    bundle = parse_bundle(write_bundle(handmade.bundle()), "own")
    model = reopen(exporting.export(train(bundle), bundle), bundle)
    with pytest.raises(UsageError, match=r"--scope unlabelled"):
        adapt_unlabelled(model, bundle, SHIFTED, UnlabelledAdaptation(), mission().train)


@pytest.mark.parametrize("bad", [{"replay": 1.0}, {"replay": -0.1}, {"steps": 0}, {"rate": -1.0}])
def test_options_out_of_range_are_usage_errors(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan(MODEL, BUNDLE, SHIFTED, UnlabelledAdaptation(**bad))


def test_images_are_read_from_a_folder_and_all_that_do_not_fit_are_named(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    for index, image in enumerate(SHIFTED[:3, 0]):
        Image.fromarray(image).save(tmp_path / "day" / f"{index}.png")
    predictor = Predictor.open(MODEL.content)
    assert np.array_equal(read_unlabelled(predictor, tmp_path), SHIFTED[:3])
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        read_unlabelled(predictor, tmp_path)
    assert len(caught.value.faults) == 2
