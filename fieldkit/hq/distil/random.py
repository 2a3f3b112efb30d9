"""Baseline: real samples, drawn at random, with their own hard labels.

What every distillation must beat at equal count.  The images that leave the building are real.
"""

from __future__ import annotations

from dataclasses import dataclass

from fieldkit.hq.distil.coreset import Coreset
from fieldkit.hq.distil.problem import Problem


@dataclass(frozen=True)
class Settings:
    """The baseline has nothing to set."""


class RandomSelection(Coreset):
    """``per_class`` real samples of every class."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        del settings
        super().__init__(problem, lambda: problem.pick(problem.per_class, problem.rng(0)))
