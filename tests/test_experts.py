"""Experts: networks trained on real data, batch normalisation's statistics included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_distil import problem

from fieldkit.bundle.recipe import Augmentation
from fieldkit.hq.distil.experts import Lessons, train_expert
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_an_expert_learns_and_answers_alike_alone_and_in_company(norm: str) -> None:
    posed = replace(problem(), module=build_model("convnet", {"depth": 2, "width": 8, "norm": norm}, (1, 8, 8), 3))
    kept: list[int] = []
    lessons = Lessons(epochs=8, batch=16, rate=0.05)
    weights = train_expert(posed, lessons, 0, lambda epoch, _: kept.append(epoch))
    assert kept == list(range(9))
    everyone = np.arange(60)
    answers = posed.answers(weights, posed.pixels(everyone))
    assert (answers.argmax(1) == posed.classes(everyone)).float().mean() > 0.9
    torch.testing.assert_close(posed.answers(weights, posed.pixels(everyone[:1])), answers[:1], atol=1e-4, rtol=1e-4)
    assert posed.module.training


def test_lessons_are_repeatable_and_seeds_differ() -> None:
    posed = replace(problem(), augmentation=Augmentation(shift=0.1))
    first, again, other = (train_expert(posed, Lessons(epochs=1), seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_one_lesson_equals_torchs_own_step() -> None:
    posed = problem()
    kept: dict[int, dict[str, torch.Tensor]] = {}
    lessons = Lessons(epochs=1, batch=60, rate=0.1, falling=False)
    train_expert(posed, lessons, 3, lambda epoch, weights: kept.update({epoch: weights}))
    model = build_model("convnet", {"depth": 2, "width": 4}, (1, 8, 8), 3)
    model.load_state_dict(kept[0])
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    everyone = np.arange(60)
    torch.nn.functional.cross_entropy(model(posed.pixels(everyone)), posed.classes(everyone)).backward()
    optimiser.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(kept[1][name], value, atol=1e-5, rtol=1e-4)


def test_answers_leave_the_modules_modes_as_they_were() -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.Dropout(), torch.nn.Linear(8, 3))
    module[2].eval()
    posed = replace(problem(), module=module)
    posed.answers(posed.fresh_model(0), posed.pixels(np.arange(4)))
    assert [each.training for each in module] == [True, True, False, True]
