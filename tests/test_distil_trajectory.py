"""Trajectory matching: the gradient with one step's graph against the whole unrolled one; difficulty; experts."""

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

from fieldkit.bundle.recipe import Augmentation
from fieldkit.errors import UsageError
from fieldkit.hq.augmentation import augment
from fieldkit.hq.compiler.optimisers import AdamW
from fieldkit.hq.distil import start
from fieldkit.hq.distil.experts import Lessons, train_expert
from fieldkit.hq.distil.problem import Snapshot
from fieldkit.hq.distil.student import Student, lessons, slope
from fieldkit.hq.distil.trajectory import Settings, TrajectoryMatching
from fieldkit.hq.distil.workers import Workers

pytestmark = pytest.mark.hq

TINY = {"experts": 2, "lesson": 24, "steps": 3, "batch": 4, "early": 1, "late": 2, "span": 1}


def unrolled_slope(
    student: Student, first: dict[str, torch.Tensor], target: dict[str, torch.Tensor], exact: bool
) -> tuple[torch.Tensor, ...]:
    """Loss and gradients from the graph of the whole training, as in the authors' code of MTT.

    Not exact: as TESLA has it, where each step's gradient is taken at weights without a history.
    """
    pixels, labels, rate = (
        each.clone().requires_grad_(True) for each in (student.pixels, student.labels, student.rate)
    )
    weights = {name: value.clone().requires_grad_(True) for name, value in first.items()}
    total = {name: torch.zeros_like(value) for name, value in first.items()}
    for lesson in student.lessons:
        batch = augment(pixels[lesson.positions], lesson.uniforms, student.problem.augmentation)
        logits = student.problem.logits(weights, batch)
        loss = -(labels[lesson.positions] * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        total = {name: total[name] + each for name, each in zip(weights, gradients, strict=True)}
        weights = {name: first[name] - rate * total[name] for name in total}
        if not exact:
            weights = {name: value.detach().requires_grad_(True) for name, value in weights.items()}
    end = {name: first[name] - rate * total[name] for name in total}
    away, far = (sum(((each[name] - target[name]) ** 2).sum() for name in target) for each in (end, first))
    return (away / far, *torch.autograd.grad(away / far, (pixels, labels, rate)))


@pytest.mark.parametrize("exact", [True, False])
@given(seed=st.integers(0, 1000), steps=st.integers(1, 4), batch=st.integers(1, 7))
@hypothesis_settings(max_examples=6, deadline=None, derandomize=True)
def test_the_slope_equals_the_naive_unrolled_gradient(exact: bool, seed: int, steps: int, batch: int) -> None:
    posed = problem(augmentation=Augmentation(brightness=0.2, contrast=0.3))
    generator = torch.Generator().manual_seed(seed)
    first, target = (
        {name: value.double() for name, value in posed.fresh_model(seed + each).items()} for each in range(2)
    )
    labels = torch.softmax(torch.randn(6, 3, generator=generator, dtype=torch.float64), dim=1)
    pixels = posed.pixels(np.arange(6)).double()
    order = tuple(lessons(posed, 6, steps, batch, seed))
    student = Student(posed, pixels, labels, torch.tensor(0.3, dtype=torch.float64), order)
    found = slope(student, first, target, exact=exact)
    expected = unrolled_slope(student, first, target, exact)
    for mine, theirs in zip((found.loss, found.pixels, found.labels, found.rate), expected, strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-9, atol=1e-12)
    assert found.pixels.abs().max() > 0


def test_the_exact_gradient_is_not_teslas() -> None:
    posed = problem()
    first, target = posed.fresh_model(0), posed.fresh_model(1)
    labels = torch.eye(3).repeat(2, 1)
    order = tuple(lessons(posed, 6, 4, 6, 0))
    student = Student(posed, posed.pixels(np.arange(6)), labels, torch.tensor(0.5), order)
    exact, tesla = (slope(student, first, target, exact=each) for each in (True, False))
    torch.testing.assert_close(exact.loss, tesla.loss)
    assert (exact.pixels - tesla.pixels).norm() > 0.01 * exact.pixels.norm()


def test_a_students_batches_pass_over_the_set_without_repeats() -> None:
    order = list(lessons(problem(), 6, 5, 2, 7))
    assert sorted(torch.cat([each.positions for each in order[:3]]).tolist()) == list(range(6))
    assert [len(each.positions) for each in lessons(problem(), 6, 2, 4, 7)] == [4, 4]


def test_iterations_bring_students_closer_to_the_experts() -> None:
    posed = problem(augmentation=Augmentation(shift=0.1))
    made = TrajectoryMatching(posed, Settings(**TINY | {"expert_rate": 0.05, "student_rate": 0.05}))
    losses = [made.step(0.0) for _ in range(20)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[2:7])


def test_two_workers_make_what_one_makes() -> None:
    def work(workers: Workers) -> tuple[list[float], Snapshot]:
        # A module runs in one worker at a time: each has its own.
        posed = replace(problem(augmentation=Augmentation(shift=0.1)), workers=workers)
        made = TrajectoryMatching(posed, Settings(**TINY | {"matches": 3}))
        return [made.step(done) for done in (0.0, 0.3)], made.snapshot()

    (losses, alone), *several = work(Workers()), *together(2, work)
    for others, snapshot in several:
        assert others == pytest.approx(losses, rel=1e-4)
        np.testing.assert_allclose(snapshot.images, alone.images, atol=0.05)
        np.testing.assert_allclose(snapshot.labels, alone.labels, atol=1e-3)


def test_experts_are_made_one_by_one_while_there_is_time() -> None:
    made = TrajectoryMatching(problem(), Settings(**TINY | {"experts": 5}))
    ready = []
    for done in (0.6, 0.1, 0.2, 0.5, 0.9):
        made.step(done)
        ready.append(made.ready)
    assert ready == [1, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("ipc", "expected"), [(1, (4, 4)), (2, (4, 4)), (10, (10, 20)), (20, (10, 20)), (99, (20, 40))]
)
def test_more_images_learn_from_later_epochs(ipc: int, expected: tuple[int, int]) -> None:
    assert Settings().difficulty(ipc) == expected


def test_the_user_sets_the_difficulty() -> None:
    assert Settings(early=2, late=7).difficulty(10) == (2, 7)
    assert Settings(first=15).difficulty(10) == (15, 20)
    assert Settings(late=3).difficulty(10) == (3, 3)
    assert Settings(early=30).difficulty(10) == (30, 30)


def test_later_epochs_come_as_the_budget_is_used_up() -> None:
    made = TrajectoryMatching(problem(), Settings(**TINY | {"first": 0, "early": 1, "late": 5}))
    made._provide(0.0)
    seen = {
        done: {made._drawn(done, np.random.default_rng(seed)).epoch for seed in range(60)} for done in (0.0, 0.5, 1.0)
    }
    assert seen == {0.0: {0, 1}, 0.5: {0, 1, 2, 3}, 1.0: {0, 1, 2, 3, 4, 5}}


def test_labels_begin_as_the_experts_where_it_is_right() -> None:
    posed = problem()
    made = TrajectoryMatching(posed, Settings(**TINY | {"label_rate": 0.0}))
    made.step(0.0)
    expert = train_expert(posed, Lessons(3, rate=0.02, falling=False, most=24), 0)
    first = TrajectoryMatching(posed, Settings(**TINY)).distilled
    said = torch.softmax(posed.answers(expert, first.seen()), dim=1).detach()
    own = torch.from_numpy(posed.targets)
    for label, expected, begun, target in zip(made.distilled.labels(), said, first.labels(), own, strict=True):
        torch.testing.assert_close(label.detach(), expected if expected.argmax() == target else begun.detach())


def test_hard_labels_stay_hard() -> None:
    made = TrajectoryMatching(replace(problem(), labels="hard"), Settings(**TINY))
    made.step(0.0)
    assert set(np.unique(made.snapshot().labels)) == {0.0, 1.0}


def test_the_schedule_takes_the_learned_rate() -> None:
    made = TrajectoryMatching(problem(), Settings(**TINY | {"student_rate": 0.3}))
    assert made.snapshot().schedule == replace(problem().schedule, rate=0.3)
    made.step(0.0)
    assert made.snapshot().schedule.rate != 0.3
    # A rate for plain SGD is none for AdamW.
    assert TrajectoryMatching(replace(problem(), optimiser=AdamW()), Settings(**TINY)).snapshot().schedule is None


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"student_rate": 0.0}, "above 0"),
        ({"first": 5, "late": 4}, "out of order"),
        ({"early": 3, "late": 2}, "out of order"),
    ],
)
def test_settings_out_of_range(values: dict[str, float], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        start("trajectory", problem(), values)
