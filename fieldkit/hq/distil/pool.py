"""Trainings in progress on the distilled set, of every age: where performance matching finds its networks."""

from __future__ import annotations

import numpy as np
import torch

from fieldkit.hq.distil.descent import Training
from fieldkit.hq.distil.distilled import DistilledSet
from fieldkit.hq.distil.problem import Problem, State


class Pool:
    """Trainings by slot, and the step at which each gives its place to a new one.

    The first training of a slot ends early, so that the ages of all spread over the schedule without a step in vain.
    """

    def __init__(self, problem: Problem, size: int, rng: np.random.Generator) -> None:
        self._problem = problem
        steps = problem.schedule.steps
        self.trainings = [Training.begin(problem, _seed(rng)) for _ in range(size)]
        self.ends = [max(steps * (slot + 1) // size, 1) for slot in range(size)]

    def __len__(self) -> int:
        return len(self.trainings)

    def put(self, slot: int, training: Training, rng: np.random.Generator) -> None:
        """Keep ``training``, gone on by some steps, in its slot, or begin a new one if it has come to its end."""
        if training.step < self.ends[slot] and _finite(training):
            self.trainings[slot] = training.detached()
            return
        self.trainings[slot] = Training.begin(self._problem, _seed(rng))
        self.ends[slot] = self._problem.schedule.steps

    def state(self) -> State:
        return {"ends": list(self.ends), "trainings": [each.state() for each in self.trainings]}

    def restore(self, state: State) -> None:
        self.ends = list(state["ends"])
        self.trainings = [Training.restored(each, self._problem.device) for each in state["trainings"]]


class Pooled:
    """What methods share whose networks are the trainings of a pool, one after the other."""

    def __init__(self, problem: Problem, distilled: DistilledSet, pool: Pool) -> None:
        self.problem = problem
        self.distilled = distilled
        self.pool = pool
        self.iteration = 0

    def turn(self) -> tuple[np.random.Generator, int, Training]:
        """Begin the next iteration: its randomness, and the slot and the training whose turn it is."""
        self.iteration += 1
        slot = self.iteration % len(self.pool)
        return self.problem.rng(self.iteration), slot, self.pool.trainings[slot]

    def state(self) -> State:
        return {"iteration": self.iteration, "distilled": self.distilled.state(), "pool": self.pool.state()}

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.distilled.restore(state["distilled"])
        self.pool.restore(state["pool"])


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 62))


def _finite(training: Training) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in training.weights.values())
