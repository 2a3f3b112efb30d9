"""RaT-BPTT against a graph of the whole window, and against what an ordinary training does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together
from test_distil import problem

from fieldkit.bundle.recipe import Augmentation, Schedule
from fieldkit.errors import UsageError
from fieldkit.hq.compiler.optimisers import AdamW, Sgd
from fieldkit.hq.distil import bptt, start
from fieldkit.hq.distil.descent import Training, descend
from fieldkit.hq.distil.problem import Problem, Snapshot
from fieldkit.hq.distil.workers import Workers

pytestmark = pytest.mark.hq


def posed(steps: int = 6, seed: int | None = None) -> Problem:
    return problem(steps=steps, batch=4, seed=seed, augmentation=Augmentation(shift=0.1))


class Caught(bptt.Bptt):
    """Keeps what the loss of an iteration would move, and moves nothing."""

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        moved = self.distilled.pixels, self.distilled.logits
        found: list[tuple[torch.Tensor, ...]] = []
        self.distilled.move = lambda loss, done: found.append(torch.autograd.grad(loss, moved))  # type: ignore[method-assign]
        self.step(0.0)
        return found[0]


@pytest.mark.parametrize("inner", bptt.INNER)
def test_gradient_equals_that_of_the_whole_graph(inner: str) -> None:
    """The same iteration with every step of its window in one graph, in the plainest way."""
    settings = bptt.Settings(window=3, horizon=6, inner=inner, inner_rate=0.01, real=12)
    made = Caught(posed(), settings)
    found = made.gradients()
    rng = made.problem.rng(1)
    training = Training.begin(made.inner, int(rng.integers(1 << 62)))
    first = int(rng.integers(4))
    positions = rng.integers(60, size=12)
    pixels, labels = made.distilled.seen(), made.distilled.labels()
    for step in range(first + 3):
        within = step >= first
        given = (pixels, labels) if within else (pixels.detach(), labels.detach())
        training = training if step > first else training.detached()
        rate = made.inner.schedule.learning_rate(step)
        training = descend(made.inner, training, *given, rate, differentiable=within)
    logits = made.problem.logits(training.weights, made.problem.pixels(positions))
    loss = torch.nn.functional.cross_entropy(logits, made.problem.classes(positions))
    expected = torch.autograd.grad(loss, (made.distilled.pixels, made.distilled.logits))
    assert first > 0
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-6 * float(reference.abs().max()))


def test_no_graph_reaches_from_one_step_to_the_next() -> None:
    """So a window holds weights and states, not what the steps between them computed."""
    made = bptt.Bptt(posed(), bptt.Settings(window=4, horizon=4, real=12))
    pixels, labels = made.distilled.seen(), made.distilled.labels()
    after = made._plain(Training.begin(made.inner, 0), pixels, labels)
    assert after.step == 1
    assert all(each.grad_fn is None for each in (*after.weights.values(), *after.states.values()))


def test_windows_end_in_every_part_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bptt.Bptt(posed(), bptt.Settings(window=2, horizon=5, real=6))
    ends: list[int] = []
    monkeypatch.setattr(bptt, "_filled", lambda training, tensors: ends.append(training.step) or training)
    monkeypatch.setattr(made.distilled, "move", lambda loss, done: None)
    for _ in range(12):
        made.step(0.0)
    assert set(ends) == {2, 3, 4, 5}


def test_iterations_lower_the_loss_on_real_images() -> None:
    settings = bptt.Settings(window=4, horizon=4, inner_rate=0.02, real=60, sharpness=1.0, rate=0.1, label_rate=0.1)
    made = bptt.Bptt(problem(seed=3), settings)
    losses = [made.step(0.0) for _ in range(25)]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_two_workers_make_what_one_makes() -> None:
    def work(workers: Workers) -> tuple[float, Snapshot]:
        made = bptt.Bptt(replace(posed(), workers=workers), bptt.Settings(window=2, horizon=4, real=13))
        return made.step(0.0), made.snapshot()

    loss, alone = work(Workers())
    for other, snapshot in together(2, work):
        assert other == pytest.approx(loss, rel=1e-4)
        np.testing.assert_allclose(snapshot.images, alone.images, atol=0.1)
        np.testing.assert_allclose(snapshot.labels, alone.labels, atol=1e-3)


def test_what_trains_the_network_inside() -> None:
    device = replace(posed(steps=10), optimiser=AdamW(beta1=0.5), schedule=Schedule(10, 4, "cosine", 0.1))
    adam = bptt.inner_problem(device, bptt.Settings(horizon=30, inner_rate=0.02))
    assert adam.optimiser == AdamW(weight_decay=0.0)
    assert adam.schedule == Schedule(30, 4, "constant", 0.02)
    own = bptt.inner_problem(device, bptt.Settings(horizon=30, inner="device"))
    assert own.optimiser == AdamW(beta1=0.5)
    assert own.schedule == Schedule(30, 4, "cosine", 0.1)
    plain = bptt.inner_problem(posed(steps=30), bptt.Settings(inner="device", horizon=None))
    assert plain.optimiser == Sgd()
    assert plain.schedule.steps == 30


def test_a_horizon_of_the_recipes_own_may_be_shorter_than_the_window() -> None:
    made = bptt.Bptt(posed(steps=2), bptt.Settings(window=5, horizon=None, real=6))
    assert np.isfinite(made.step(0.0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inner": "magic"}, "inner: unknown; found magic; expected adam or device"),
        ({"window": 9, "horizon": 8}, "horizon: too short"),
        ({"window": 0}, "window: out of range"),
        ({"horizon": 0}, "horizon: out of range"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        start("bptt", posed(), settings)
