"""Spare classes in a bundle: off while it trains, out of what a model says, and counted by the file."""

from __future__ import annotations

import json
from dataclasses import replace

import handmade
import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.reader import parse_bundle
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.writer import write_bundle
from fieldkit.errors import IncompatibleBundle, ProgramError, UsageError
from fieldkit.field.engine.training import fit, train
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor

CLASSES, SPARE = 3, 2


def spacious() -> Bundle:
    recipe = handmade.recipe(classes=CLASSES + SPARE, spare=SPARE)
    made = handmade.bundle(recipe)
    return replace(made, manifest=replace(made.manifest, spare_classes=SPARE))


BUNDLE = parse_bundle(write_bundle(spacious()), "spacious")


def test_the_manifest_says_how_many_only_where_there_are_some() -> None:
    assert BUNDLE.manifest.spare_classes == SPARE
    plain = handmade.bundle().manifest
    assert "spare_classes" not in plain.to_json()
    assert Manifest.from_json(plain.to_json()).spare_classes == 0


def test_a_negative_number_is_refused() -> None:
    broken = replace(BUNDLE, manifest=replace(BUNDLE.manifest, spare_classes=-1))
    with pytest.raises(UsageError, match="spare_classes: found -1"):
        write_bundle(broken)


def test_spare_outputs_neither_learn_nor_disturb() -> None:
    """The rows of the classes end as those of a recipe that has no others; the spare rows stay where they were."""
    recipe = BUNDLE.recipes["linear"]
    samples = BUNDLE.training_set()
    with_spare = fit(recipe, samples)
    first = {name: each[:CLASSES].astype(np.float16) for name, each in _initial(recipe).items()}
    plain = handmade.recipe(initial=handmade.Initial(weights=first))
    whole = {name: each.astype(np.float16) for name, each in _initial(recipe).items()}
    same = fit(replace(recipe, initial=handmade.Initial(weights=whole)), samples)
    without = fit(plain, samples)
    for name, values in without.weights.items():
        assert np.allclose(same.weights[name][:CLASSES], values, rtol=1e-5, atol=1e-6)
    for name, values in _initial(recipe).items():
        assert np.array_equal(with_spare.weights[name][CLASSES:], values[CLASSES:])


def _initial(recipe: handmade.Recipe) -> dict[str, np.ndarray]:
    return handmade.initial_weights(recipe.parameters, recipe.initial, 0)


def test_a_model_gives_probabilities_of_the_classes_in_use_to_anybody() -> None:
    model = exporting.export(train(BUNDLE), BUNDLE)
    assert BUNDLE.probe is not None
    (found,) = onnxruntime.InferenceSession(model).run(None, {"images": BUNDLE.probe.images})
    assert found.shape == (len(BUNDLE.probe), CLASSES)
    assert np.allclose(found.sum(1), 1.0, atol=1e-6)
    assert np.array_equal(found, Predictor.open(model).predict(BUNDLE.probe.images))
    assert (found.argmax(1) == BUNDLE.probe.targets).mean() > 0.9


@given(st.integers(1, CLASSES + SPARE))
@settings(max_examples=5, deadline=None)
def test_another_number_of_classes_is_the_same_program(count: int) -> None:
    recipe = BUNDLE.recipes["linear"]
    weights = _initial(recipe)
    names = [f"k{index}" for index in range(count)]
    metadata = {
        exporting.CLASSES: json.dumps(names),
        exporting.RADIOMETRY: json.dumps(BUNDLE.manifest.radiometry.to_json()),
    }
    predictor = Predictor.open(exporting.complete_model(recipe.programs["predict"], weights, metadata, count))
    images = handmade.images(6).images
    logits = (images.reshape(6, -1).astype(np.float64) - 100) / 50 @ weights["weight"].T + weights["bias"]
    expected = np.exp(logits[:, :count]) / np.exp(logits[:, :count]).sum(1, keepdims=True)
    assert np.allclose(predictor.predict(images), expected, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4, None])
def test_names_must_be_as_many_as_classes_in_use(count: int | None) -> None:
    recipe = BUNDLE.recipes["linear"]
    metadata = exporting.describe(train(BUNDLE, steps=1), BUNDLE.manifest, "")
    with pytest.raises(ProgramError):
        Predictor.open(exporting.complete_model(recipe.programs["predict"], _initial(recipe), metadata, count))


def test_labels_of_more_classes_than_outputs_are_refused() -> None:
    recipe = BUNDLE.recipes["linear"]
    samples = Samples(np.zeros((2, 1, 4, 4), np.float32), np.full((2, CLASSES + SPARE + 1), 0.1, np.float32))
    with pytest.raises(IncompatibleBundle, match="labels of up to 5 classes"):
        fit(recipe, samples)
