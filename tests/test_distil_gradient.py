"""Gradient matching against a loop over classes and units in the authors' structure; networks; batch statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_distil import problem

from fieldkit.errors import UsageError
from fieldkit.hq.distil import start
from fieldkit.hq.distil.gradient import (
    GradientMatching,
    Settings,
    batch_statistics,
    class_gradients,
    distance,
)
from fieldkit.hq.distil.problem import Snapshot
from fieldkit.hq.distil.workers import Workers
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq


def slow_gradients(posed, weights, pixels, label: int, differentiable: bool):
    """One class at a time, as in the authors' code."""
    leaves = {name: value.clone().requires_grad_(True) for name, value in weights.items()}
    logits = posed.logits(leaves, pixels)
    loss = torch.nn.functional.cross_entropy(logits, torch.full((len(pixels),), label))
    names = [name for name, value in weights.items() if value.ndim >= 2]
    found = torch.autograd.grad(loss, [leaves[name] for name in names], create_graph=differentiable)
    return dict(zip(names, found, strict=True))


def slow_distance(wanted, found):
    """distance_wb of the authors' code: unit by unit."""
    total = torch.zeros(())
    for name, real in wanted.items():
        for goal, own in zip(real, found[name], strict=True):
            goal, own = goal.flatten(), own.flatten()
            total = total + 1 - (goal @ own) / (goal.norm() * own.norm() + 1e-6)
    return total


@given(
    seed=st.integers(0, 1000),
    real=st.integers(1, 5),
    ipc=st.integers(1, 3),
    classes=st.sampled_from([[0, 1, 2], [2, 0]]),
)
@hypothesis_settings(max_examples=6, deadline=None, derandomize=True)
def test_distance_and_pixel_gradient_equal_a_loop_over_classes(
    seed: int, real: int, ipc: int, classes: list[int]
) -> None:
    posed, rng = problem(), np.random.default_rng(seed)
    weights = posed.fresh_model(seed)
    theirs = posed.pixels(rng.integers(60, size=real * len(classes)))
    ours = posed.pixels(rng.integers(60, size=ipc * len(classes))).requires_grad_(True)
    wanted = class_gradients(posed, weights, theirs, classes)
    loss = distance(wanted, class_gradients(posed, weights, ours, classes))
    (gradient,) = torch.autograd.grad(loss, ours)
    expected = torch.zeros(())
    for index, label in enumerate(classes):
        goal = slow_gradients(posed, weights, theirs[index * real : (index + 1) * real], label, False)
        own = slow_gradients(posed, weights, ours[index * ipc : (index + 1) * ipc], label, True)
        expected = expected + slow_distance(goal, own)
    (expected_gradient,) = torch.autograd.grad(expected, ours)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)


def test_the_same_images_have_no_distance() -> None:
    posed = problem()
    weights, pixels = posed.fresh_model(0), posed.pixels(np.arange(6))
    found = class_gradients(posed, weights, pixels, [0, 1, 2])
    units = sum(value.shape[0] for value in weights.values() if value.ndim >= 2)
    assert abs(float(distance(found, found))) < 0.01 * 3 * units


def test_iterations_bring_gradients_closer() -> None:
    posed = replace(problem(steps=100), start="noise")
    made = GradientMatching(posed, Settings(per_class=12, inner=1, rate=0.05))
    losses = [made.step(0.0) for _ in range(24)]
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:6])


def test_one_network_serves_outer_comparisons_and_trains_between_them() -> None:
    made = GradientMatching(problem(steps=100), Settings(per_class=4, outer=3, inner=2))
    seeds, steps = [], []
    for _ in range(6):
        seeds.append(made.training.seed)
        steps.append(made.training.step)
        made.step(0.0)
    assert steps == [0, 2, 4, 0, 2, 4]
    assert len(set(seeds[:3])) == len(set(seeds[3:])) == 1
    assert seeds[0] != seeds[3]


def test_a_network_never_trains_longer_than_a_device() -> None:
    made = GradientMatching(problem(steps=5), Settings(per_class=4, outer=50, inner=2))
    steps = []
    for _ in range(5):
        steps.append(made.training.step)
        made.step(0.0)
    assert steps == [0, 2, 4, 0, 2]


@pytest.mark.parametrize(("ipc", "outer"), [(1, 1), (10, 10), (60, 50)])
def test_as_many_comparisons_as_images_per_class(ipc: int, outer: int) -> None:
    assert GradientMatching(problem(ipc=ipc)).outer == outer


def test_batch_normalisation_knows_the_statistics_of_real_images() -> None:
    plain = problem()
    module = build_model("convnet", {"depth": 1, "width": 4, "norm": "batch"}, (1, 8, 8), 3)
    posed = replace(plain, module=module)
    weights = posed.fresh_model(0)
    known = batch_statistics(posed, weights, np.random.default_rng(5))
    pixels = posed.pixels(posed.pick(16, np.random.default_rng(5)))
    maps = torch.nn.functional.conv2d(pixels, weights["blocks.0.conv.weight"], weights["blocks.0.conv.bias"], padding=1)
    torch.testing.assert_close(known["blocks.0.norm.running_mean"], maps.mean(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(known["blocks.0.norm.running_var"], maps.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    made = GradientMatching(posed, Settings(per_class=4, inner=1))
    assert np.isfinite([made.step(0.0), made.step(0.0)]).all()


def test_workers_make_the_set_that_one_process_makes() -> None:
    def work(workers: Workers) -> Snapshot:
        made = GradientMatching(replace(problem(), workers=workers), Settings(per_class=4, inner=1))
        for done in (0.0, 0.5):
            made.step(done)
        return made.snapshot()

    alone = work(Workers())
    # Four workers for three classes: one has none.
    for each in together(4, work):
        np.testing.assert_allclose(each.images, alone.images, atol=0.05)


@pytest.mark.parametrize("name", ["per_class", "outer", "inner"])
def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        start("gradient", problem(), {name: 0})
