"""Learning rates of every kind of schedule, against torch's schedulers where torch has one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldkit.bundle.recipe import SCHEDULES, Schedule


def rates(schedule: Schedule) -> np.ndarray:
    return np.array([schedule.learning_rate(step) for step in range(schedule.steps)])


def torch_rates(steps: int, make: object) -> np.ndarray:
    torch = pytest.importorskip("torch")
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = make(torch.optim.lr_scheduler, optimiser)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return np.array(found)


def test_cosine_is_torchs() -> None:
    expected = torch_rates(20, lambda kinds, optimiser: kinds.CosineAnnealingLR(optimiser, 20))
    np.testing.assert_allclose(rates(Schedule(20, 4, "cosine", 0.3)), expected, rtol=1e-6)


def test_steps_are_torchs() -> None:
    expected = torch_rates(20, lambda kinds, optimiser: kinds.MultiStepLR(optimiser, [5, 12], gamma=0.2))
    found = rates(Schedule(20, 4, "step", 0.3, milestones=(5, 12), factor=0.2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("warmup", [3, 9])
def test_one_cycle_is_torchs(warmup: int) -> None:
    expected = torch_rates(
        20, lambda kinds, optimiser: kinds.OneCycleLR(optimiser, 0.3, total_steps=21, pct_start=(warmup + 1) / 21)
    )
    np.testing.assert_allclose(rates(Schedule(21, 4, "one-cycle", 0.3, warmup))[:20], expected, rtol=1e-6)


def test_a_warm_up_is_linear() -> None:
    np.testing.assert_allclose(rates(Schedule(6, 4, "constant", 0.4, 4)), [0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


@given(st.sampled_from(SCHEDULES), st.integers(1, 40), st.integers(1, 40))
def test_a_stretched_schedule_keeps_its_shape(kind: str, steps: int, others: int) -> None:
    listed = tuple(np.linspace(0.3, 0.01, steps).tolist()) if kind == "listed" else ()
    schedule = Schedule(steps, 4, kind, 0.3, steps // 4, listed, (steps // 2,))
    stretched = schedule.with_steps(others)
    assert stretched.steps == others
    found = rates(stretched)
    assert (found >= 0).all()
    assert found.max() <= 0.3 * (1 + 1e-9)
    assert Schedule.from_json(stretched.to_json()).to_json() == stretched.to_json()
    if kind == "step":
        # The nearest step, but never the first.
        assert stretched.milestones[0] >= 1
        if schedule.milestones[0] * others >= steps:
            assert abs(stretched.milestones[0] / others - schedule.milestones[0] / steps) <= 0.5 / others + 1e-9
