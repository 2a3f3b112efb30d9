"""Baseline: real samples, drawn at random, with their own hard labels.

What every distillation must beat at equal count.  The images that leave the building are real.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fieldkit.hq.distil.problem import Problem, Snapshot, State


@dataclass(frozen=True)
class Settings:
    """The baseline has nothing to set."""


class RandomSelection:
    """``per_class`` real samples of every class, reduced to the size at which they are stored."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        del settings
        self.problem = problem
        self.positions = problem.pick(problem.per_class, problem.rng(0))

    def step(self, done: float) -> float:
        """There is nothing to improve."""
        del done
        return 0.0

    def snapshot(self) -> Snapshot:
        images = torch.from_numpy(self.problem.real.images[self.positions].astype(np.float32))
        labels = np.eye(self.problem.class_count, dtype=np.float32)[self.problem.targets]
        return Snapshot(self.problem.reduced(images).numpy(), labels)

    def state(self) -> State:
        return {"positions": self.positions.tolist()}

    def restore(self, state: State) -> None:
        self.positions = np.array(state["positions"], dtype=np.int64)
