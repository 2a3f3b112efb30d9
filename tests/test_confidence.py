"""Calibration changes how sure a model is and never what it says; thresholds keep what they promise."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise

import handmade
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fieldkit.errors import ProgramError, UsageError
from fieldkit.field.engine.training import train
from fieldkit.field.models import confidence, exporting
from fieldkit.field.models.confidence import (
    CERTAINTY,
    COVERAGES,
    TARGET,
    Confidence,
    fit_temperature,
    known,
    least_share,
    scaled,
)
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.programs.program import read_metadata

BUNDLE = handmade.bundle(probe=60)
MODEL = exporting.export(train(BUNDLE, threads=1), BUNDLE)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def drawn(
    count: int, temperature: float, seed: int, classes: int = 5, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that are ``temperature`` times too sure (or, below 1, not sure enough), and true classes."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (count, classes))
    chances = softmax(logits)
    targets = (chances.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1).clip(0, classes - 1)
    return softmax(logits * temperature).astype(np.float32), targets


def calibration_error(probabilities: np.ndarray, targets: np.ndarray, bins: int = 15) -> float:
    """The expected calibration error, by Guo et al. 2017, equation 3."""
    surest, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    places = np.minimum((surest * bins).astype(int), bins - 1)
    gaps = [
        abs(float(surest[places == place].mean() - right[places == place].mean())) * float((places == place).mean())
        for place in np.unique(places)
    ]
    return sum(gaps)


@settings(max_examples=200)
@given(
    drawn_rows=arrays(np.float32, (4, 6), elements=st.floats(0, 1, width=32)),
    temperature=st.floats(math.exp(-3), math.exp(3)),
)
def test_no_ranking_changes(drawn_rows: np.ndarray, temperature: float) -> None:
    # The best of six classes has at least a sixth.
    rows = np.maximum(drawn_rows, np.float32(1 / 6) * np.eye(4, 6, dtype=np.float32))
    found = scaled(rows, temperature)
    assert found.dtype == np.float64
    assert np.allclose(found.sum(axis=1), 1)
    for before, after in zip(rows, found, strict=True):
        order = np.argsort(-before, kind="stable")
        assert all(after[first] >= after[second] for first, second in pairwise(order))
        assert int(np.argmax(after)) == int(np.argmax(before))


def test_a_temperature_of_one_changes_nothing() -> None:
    probabilities, _ = drawn(50, 1.0, 0)
    assert np.allclose(scaled(probabilities, 1.0), probabilities, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(20_000, temperature, 1)) == pytest.approx(temperature, rel=0.05)


@pytest.mark.parametrize("temperature", [0.3, 3.0])
def test_calibration_error_falls_on_images_not_seen(temperature: float) -> None:
    probe, fresh = drawn(500, temperature, 2), drawn(20_000, temperature, 3)
    before = calibration_error(*fresh)
    after = calibration_error(scaled(fresh[0], fit_temperature(*probe)), fresh[1])
    assert before > 0.1
    assert after < 0.25 * before


def test_the_temperature_is_the_likeliest_of_many() -> None:
    probabilities, targets = drawn(80, 2.0, 4)

    def cost(temperature: float) -> float:
        chosen = scaled(probabilities, temperature)[np.arange(len(targets)), targets]
        return float(-np.log(chosen).sum() + math.log(temperature) ** 2 / 2)

    found = cost(fit_temperature(probabilities, targets))
    assert found <= min(cost(each) for each in np.exp(np.linspace(-3, 3, 400))) + 1e-9


def test_a_probe_that_is_all_right_does_not_make_a_model_all_sure() -> None:
    probabilities = softmax(np.eye(3)[np.arange(30) % 3] * 3).astype(np.float32)
    found = fit_temperature(probabilities, np.arange(30) % 3)
    assert math.exp(-2) < found < 1
    assert np.isfinite(fit_temperature(np.eye(2, dtype=np.float32), np.array([1, 0])))


def test_the_least_share_is_that_of_clopper_and_pearson() -> None:
    assert least_share(0, 10, 0.01) == 0.0
    # All of n: p^n = risk.
    assert least_share(20, 20, 0.05) == pytest.approx(0.05 ** (1 / 20))
    for hits, count, risk in ((17, 20, 0.1), (96, 100, 0.01), (1, 3, 0.2)):
        chance = least_share(hits, count, risk)
        ways = [
            math.comb(count, each) * chance**each * (1 - chance) ** (count - each) for each in range(hits, count + 1)
        ]
        assert sum(ways) == pytest.approx(risk)
    assert least_share(9_500, 10_000, 0.01) == pytest.approx(0.945, abs=0.002)


def test_what_the_threshold_promises_holds() -> None:
    """Of 100 probes of 150 images, at most one in ten promises an accuracy that fresh images do not keep."""
    fresh, truth = drawn(10_000, 1.7, 5, spread=2.5)
    right = fresh.argmax(axis=1) == truth
    broken = 0
    for seed in range(100):
        found = confidence.measure(*drawn(150, 1.7, 100 + seed, spread=2.5))
        accepted = scaled(fresh, found.temperature).max(axis=1) >= found.threshold
        broken += bool(right[accepted].mean() < found.accuracy)
    assert broken <= 100 * (1 - CERTAINTY)


@settings(max_examples=40)
@given(count=st.integers(1, 120), temperature=st.floats(0.3, 3), seed=st.integers(0, 1000))
def test_the_threshold_is_the_loosest_that_is_good_enough(count: int, temperature: float, seed: int) -> None:
    probabilities, targets = drawn(count, temperature, seed)
    found = confidence.measure(probabilities, targets)
    surest = scaled(probabilities, found.temperature).max(axis=1)
    assert found.samples == count
    assert found.coverage == pytest.approx((surest >= found.threshold).mean())
    right = probabilities.argmax(axis=1) == targets
    bounds = []
    for coverage in COVERAGES:
        accepted = surest >= np.sort(surest)[::-1][math.ceil(coverage * count) - 1]
        bounds.append(least_share(int(right[accepted].sum()), int(accepted.sum()), 0.01))
    good = [bound for bound in bounds if bound >= TARGET]
    assert found.accuracy == pytest.approx(good[0] if good else max(bounds))


def test_a_model_carries_what_was_measured() -> None:
    made = confidence.calibrate(MODEL, BUNDLE, threads=1)
    found = known(read_metadata(made, "model"), "model")
    assert found is not None
    assert BUNDLE.probe is not None
    said = Predictor.open(MODEL).predict(BUNDLE.probe.images)
    assert found == confidence.measure(said, BUNDLE.probe.targets)
    assert known(read_metadata(MODEL, "model"), "model") is None
    # Measured anew, not beside.
    assert confidence.calibrate(made, BUNDLE, threads=1) == made
    assert read_metadata(made, "model").items() > read_metadata(MODEL, "model").items()
    assert np.array_equal(
        Predictor.open(made).predict(BUNDLE.probe.images), Predictor.open(MODEL).predict(BUNDLE.probe.images)
    )


def test_a_bundle_without_a_probe_leaves_the_model_as_it_is() -> None:
    assert confidence.calibrate(MODEL, handmade.bundle(probe=0)) == MODEL


def test_a_model_of_other_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="kind 3"):
        confidence.calibrate(MODEL, handmade.bundle(handmade.recipe(classes=4), classes=4))


@pytest.mark.parametrize("text", ["", "[1]", "{}", "[" * 9999, '{"temperature": 0}', '{"temperature": "x"}'])
def test_metadata_that_makes_no_sense(text: str) -> None:
    with pytest.raises(ProgramError, match="makes no sense"):
        known({confidence.KEY: text}, "model.onnx")
    whole = asdict(Confidence(1.0, 0.5, 0.9, 1.0, 3))
    for wrong in ({"temperature": float("nan")}, {"temperature": -1}, {"threshold": 2}, {"samples": "many"}):
        with pytest.raises(ProgramError, match="makes no sense"):
            known({confidence.KEY: json.dumps(whole | wrong)}, "model.onnx")
