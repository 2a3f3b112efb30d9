"""The trainings of a selection: how many fit into the time, and each recipe's score on the probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import Recipe
from fieldkit.errors import Diverged
from fieldkit.field.engine.training import Trained, Trainer, stretched
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.selection.elimination import OutOfTimeError, Score, kept
from fieldkit.tasks import classification

OVERHEAD = 1.15
"""A training takes longer than its steps: it is opened, exported and scored."""

Report: TypeAlias = "Callable[[str, str, int, int], None]"
"""Called with what is being done ("trying", "training"), to whom, how much is done, and how much there is to do."""


@dataclass(frozen=True)
class Plan:
    """How the trainings are cut: shares of the full length at which recipes are compared, each with so many seeds.

    scale: what all lengths are multiplied by, 0-1, where time is short.
    """

    shares: tuple[float, ...]
    seeds: int
    scale: float = 1.0

    def steps(self, recipe: Recipe, share: float) -> int:
        """The steps of one training.  Learning rates that were distilled step by step mean nothing on another scale."""
        full = recipe.schedule.steps
        return full if recipe.schedule.kind == "listed" else max(1, round(full * share * self.scale))

    def total(self, recipes: Sequence[Recipe], weight: Callable[[Recipe], float] = lambda recipe: 1.0) -> float:
        """Steps of all trainings, each times its ``weight``, if at each rung the longest of them go on."""
        amount, count = 0.0, len(recipes)
        for share in self.shares:
            works = sorted((self.steps(recipe, share) * weight(recipe) for recipe in recipes), reverse=True)
            amount += self.seeds * sum(works[:count])
            count = kept(count)
        return amount


def fitting(plan: Plan, recipes: Sequence[Recipe], seconds: Mapping[str, float], budget: float | None) -> Plan:
    """``plan`` with fewer seeds and, if that is not enough, shorter trainings, so that it ends in time.

    seconds: of one step, by recipe.  budget: seconds for all of it.
    """
    if budget is None:
        return plan
    for seeds in range(plan.seeds, 0, -1):
        plan = Plan(plan.shares, seeds)
        needed = OVERHEAD * plan.total(recipes, lambda recipe: seconds[recipe.name])
        if needed <= budget:
            return plan
    return Plan(plan.shares, 1, max(budget, 0.0) / needed)


class Contest:
    """Trains recipes of a bundle and scores them on its probe, until ``deadline`` on the monotonic clock.

    entries: the model of seed 0 of each recipe that was scored, and its training: of the longest length so far.
    """

    def __init__(
        self, bundle: Bundle, plan: Plan, deadline: float | None, threads: int | None, report: Report, total: int
    ) -> None:
        self.bundle, self.plan, self.deadline = bundle, plan, deadline
        self.threads, self.report, self.total = threads, report, total
        self.samples = bundle.training_set()
        self.entries: dict[str, tuple[bytes, Trained]] = {}
        self._scores: dict[tuple[str, int], Score | None] = {}
        self._done = 0

    def train(self, name: str, share: float) -> Score | None:
        """The score of a recipe at a share of its length; None where its training diverged.

        Raises OutOfTimeError if the deadline passes before it is trained with one seed.
        """
        recipe = self.bundle.recipes[name]
        steps = self.plan.steps(recipe, share)
        if (name, steps) not in self._scores:
            self._scores[name, steps] = self._score(recipe, steps)
        return self._scores[name, steps]

    def fit(self, recipe: Recipe, steps: int, seed: int = 0, trainer: Trainer | None = None) -> tuple[bytes, Trained]:
        """One training, and its model's file.  Raises OutOfTimeError at the deadline, Diverged."""
        trainer = trainer or Trainer(recipe, threads=self.threads)
        schedule = stretched(recipe.schedule, steps)
        trained = trainer.fit(
            self.samples, seed=seed, schedule=schedule, progress=lambda *_: self._count(f"{recipe.name}, seed {seed}")
        )
        return exporting.export(trained, self.bundle), trained

    def _score(self, recipe: Recipe, steps: int) -> Score | None:
        assert self.bundle.probe is not None
        trainer = Trainer(recipe, threads=self.threads)
        accuracies: list[float] = []
        entry = None
        try:
            for seed in range(self.plan.seeds):
                made = self.fit(recipe, steps, seed, trainer)
                guesses = Predictor.open(made[0], self.threads).predict(self.bundle.probe.images)
                accuracies.append(classification.score(guesses, self.bundle.probe.targets).accuracy)
                entry = entry or made
        except OutOfTimeError:
            if entry is None:
                raise
        except Diverged:
            self.entries.pop(recipe.name, None)
            return None
        assert entry is not None
        self.entries[recipe.name] = entry
        return Score(tuple(accuracies), steps)

    def _count(self, note: str) -> None:
        """One more step is made."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTimeError
        self._done += 1
        self.report("training", note, self._done, max(self.total, self._done))
