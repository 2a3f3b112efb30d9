"""Networks that are a little trained, each differently: whose features IDM compares.

Zhao, Li, Qin & Yu, "Improved Distribution Matching for Dataset Condensation", CVPR 2023 (arXiv 2307.09742), part 4.2.
As in the authors' code one network learns a few steps on real images in each iteration, and the oldest makes room for a
new one.  Every worker keeps the same queue.
"""

from __future__ import annotations

import numpy as np

from fieldkit.hq.distil.experts import Expert, Lessons
from fieldkit.hq.distil.problem import Problem, State, Weights

FIRST = 3
BATCH = 128
RATE = 0.01


class Queue:
    """Up to ``size`` experts in training, the oldest first; three to begin with."""

    def __init__(self, problem: Problem, size: int, lesson: int) -> None:
        """lesson: steps of a network's training at a time."""
        self._problem = problem
        self._size = size
        self._lessons = Lessons(batch=BATCH, rate=RATE, falling=False, most=BATCH * lesson)
        self.experts = [Expert(problem, self._lessons, seed) for seed in range(min(FIRST, size))]

    def push(self) -> None:
        """Take in a new network; the oldest leaves a full queue."""
        self.experts.append(Expert(self._problem, self._lessons, self.experts[-1].seed + 1))
        self.experts = self.experts[-self._size :]

    def weights(self, rng: np.random.Generator) -> Weights:
        """Those of any network, its running statistics among them."""
        return self._any(rng).weights()

    def learn(self, rng: np.random.Generator) -> None:
        """Any network makes the steps of one lesson."""
        self._any(rng).learn()

    def state(self) -> State:
        return {str(each.seed): each.state() for each in self.experts}

    def restore(self, state: State) -> None:
        self.experts = [Expert(self._problem, self._lessons, int(seed)) for seed in state]
        for each in self.experts:
            each.restore(state[str(each.seed)])

    def _any(self, rng: np.random.Generator) -> Expert:
        return self.experts[int(rng.integers(len(self.experts)))]
