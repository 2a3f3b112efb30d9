"""The training loop: against numpy, against itself resumed, and where it must stop."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from importlib.metadata import version

import handmade
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fieldkit
from fieldkit.bundle.recipe import Initial, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import initial_weights, uniforms
from fieldkit.errors import Diverged, IncompatibleBundle, UsageError
from fieldkit.field.engine import augmentation
from fieldkit.field.engine.training import Options, Trained, Trainer, TrainingState, fit, minibatch, train


def same(one: Trained, other: Trained) -> bool:
    return all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)


def soft(samples: Samples, classes: int = 3) -> Samples:
    return Samples(samples.images.astype(np.float32), np.eye(classes, dtype=np.float32)[samples.targets])


@pytest.mark.parametrize("seed", [0, 7])
def test_training_matches_numpy(seed: int) -> None:
    bundle = handmade.bundle()
    trained = train(bundle, seed=seed, threads=1)
    weights, losses = handmade.numpy_training(bundle.recipes["linear"], bundle.training_set(), seed)
    assert np.allclose(trained.losses, losses, rtol=1e-5)
    for name, expected in weights.items():
        assert np.allclose(trained.weights[name], expected, rtol=1e-4, atol=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    bundle = handmade.bundle(handmade.recipe(aug=True), per_class=5)
    first = train(bundle, seed=3)
    assert same(first, train(bundle, seed=3))
    assert not same(first, train(bundle, seed=4))


def test_a_fixed_start_ignores_the_seed_where_nothing_else_is_random() -> None:
    bundle = handmade.bundle(handmade.recipe(initial=Initial(seed=11)))
    assert same(train(bundle, seed=1), train(bundle, seed=2))


def test_a_trainer_trains_again_as_if_it_were_new() -> None:
    recipe = handmade.recipe(aug=True)
    trainer = Trainer(recipe, threads=1)
    first = trainer.fit(soft(handmade.images(20)), seed=1)
    trainer.fit(soft(handmade.images(5)), seed=2, schedule=Schedule(3, 8, "constant", 0.5))
    assert same(first, trainer.fit(soft(handmade.images(20)), seed=1))


@given(st.integers(0, 20))
def test_a_training_cut_anywhere_ends_with_the_same_bits(cut: int) -> None:
    recipe = handmade.recipe(aug=True)
    samples = soft(handmade.images(20))
    whole = fit(recipe, samples, Options(seed=5, threads=1))
    first, second = Trainer(recipe, threads=1), Trainer(recipe, threads=1)
    state = first.begin(5)
    run = first.run(samples, state, seed=5, schedule=recipe.schedule)
    for _ in range(cut):
        next(run)
    saved = first.state(cut) if cut else state
    for _ in second.run(samples, TrainingState(saved.tensors, saved.step), seed=5, schedule=recipe.schedule):
        pass
    assert all(np.array_equal(whole.weights[name], values) for name, values in second.weights().items())


def test_padding_has_no_weight() -> None:
    samples = soft(handmade.images(6))
    narrow = fit(handmade.recipe(batch=6), samples, Options(threads=1))
    wide = fit(handmade.recipe(batch=50), samples, Options(threads=1))
    assert np.allclose(narrow.losses, wide.losses, rtol=1e-5)


def test_class_indices_train_like_hard_labels() -> None:
    samples = handmade.images(20)
    assert same(fit(handmade.recipe(), samples), fit(handmade.recipe(), soft(samples)))


@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 2**40), st.integers(1, 5))
def test_minibatches_see_every_sample_equally_often(count: int, batch: int, seed: int, epochs: int) -> None:
    batch = min(batch, count)
    steps = epochs * count // math.gcd(count, batch)
    seen = Counter(int(place) for step in range(steps) for place in minibatch(seed, step, count, batch))
    assert set(seen) == set(range(count))
    assert len(set(seen.values())) == 1


def test_an_epoch_is_the_order_of_its_uniforms() -> None:
    assert np.array_equal(minibatch(3, 1, 10, 10), np.argsort(uniforms(3, (2 << 32) + 1, 10)))


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31), st.integers(1, 30), st.integers(1, 9))
def test_augmentation_draws_depend_on_seed_and_step_alone(seed: int, step: int, batch: int, width: int) -> None:
    drawn = augmentation.draw(seed, step, (batch, width))
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    flat = uniforms(seed, (1 << 32) + step, batch * width).astype(np.float32)
    assert np.array_equal(drawn, np.minimum(flat, np.nextafter(np.float32(1), np.float32(0))).reshape(batch, width))


def test_steps_stretch_the_schedule_and_progress_is_told() -> None:
    told: list[tuple[int, int, float]] = []
    trained = train(handmade.bundle(), steps=7, progress=lambda *each: told.append(each))
    assert trained.steps == 7
    assert [each[:2] for each in told] == [(step, 7) for step in range(1, 8)]
    assert [each[2] for each in told] == trained.losses.tolist()


def test_the_state_before_the_first_step_follows_the_laws() -> None:
    recipe = handmade.recipe()
    state = Trainer(recipe).begin(9)
    weights = initial_weights(recipe.parameters, recipe.initial, 9)
    assert state.step == 0
    assert np.array_equal(state.tensors["param.weight"], weights["weight"])
    assert not state.tensors["state.momentum.weight"].any()


def test_the_first_recipe_is_the_default() -> None:
    bundle = handmade.bundle(handmade.recipe("small"), handmade.recipe("large", steps=3))
    assert train(bundle).recipe.name == "small"
    assert train(bundle, "large").steps == 3
    with pytest.raises(UsageError, match="found huge; expected small or large"):
        train(bundle, "huge")


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": -1}, {"threads": 0}, {"seed": -1}, {"seed": 1 << 63}])
def test_options_out_of_range_are_usage_errors(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        train(handmade.bundle(), **options)


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    recipe = handmade.recipe(rate=1e38)
    with pytest.raises(Diverged, match="loss nan at step") as caught:
        fit(recipe, soft(handmade.images(8)))
    assert caught.value.remedy


def test_weights_that_overflow_in_the_last_step_are_not_returned() -> None:
    recipe = replace(handmade.recipe(), schedule=Schedule(1, 8, "constant", 3e38))
    bright = Samples(np.full((3, 1, 4, 4), 1e4, np.float32), np.arange(3))
    with pytest.raises(Diverged, match="weights that are not finite"):
        fit(recipe, bright)


@pytest.mark.parametrize(
    "samples",
    [
        Samples(np.zeros((3, 1, 5, 5), np.float32), np.zeros(3, np.int64)),
        Samples(np.zeros((3, 1, 4, 4), np.float32), np.full(3, 3)),
        Samples(np.zeros((3, 1, 4, 4), np.float32), np.full(3, -1)),
        Samples(np.zeros((3, 1, 4, 4), np.float32), np.zeros((3, 4), np.float32)),
        Samples(np.zeros((0, 1, 4, 4), np.float32), np.zeros(0, np.int64)),
    ],
    ids=["size", "label", "negative", "classes", "none"],
)
def test_samples_that_do_not_fit_are_refused(samples: Samples) -> None:
    with pytest.raises(IncompatibleBundle, match="samples that the recipe's train program cannot take"):
        fit(handmade.recipe(), samples)


def test_the_public_names_are_all_there() -> None:
    for name in fieldkit.__all__:
        assert getattr(fieldkit, name) is not None
    assert dir(fieldkit) == sorted(fieldkit.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = fieldkit.nothing


def test_the_version_is_the_distributions() -> None:
    assert fieldkit.__version__ == version("fieldkit")
