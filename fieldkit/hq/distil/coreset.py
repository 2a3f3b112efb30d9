"""Sets of real images that are chosen, not made: the floors that a distillation must clear at equal count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fieldkit.errors import Diverged
from fieldkit.hq.distil.archive import Archive
from fieldkit.hq.distil.experts import Lessons
from fieldkit.hq.distil.problem import Problem, Snapshot, State, Weights

# Images that go through a network at a time.
BATCH = 500

# Where the images of one class are that a method chooses: (features float32 [n, f], how many) to int64 [how many].
Choose = Callable[[torch.Tensor, int], np.ndarray]


class Coreset:
    """Real samples of every class with their own hard labels, chosen once; reduced to the size that is stored.

    select: finds their positions among the real ones, int64 [per_class * k], class 0 first.  It is called when the set
    is first asked for, so that its work counts as the method's.
    """

    def __init__(self, problem: Problem, select: Callable[[], np.ndarray]) -> None:
        self.problem = problem
        self._select = select
        self._found: np.ndarray | None = None

    @property
    def positions(self) -> np.ndarray:
        """Positions of the chosen samples, int64 [per_class * k], class 0 first."""
        if self._found is None:
            self._found = self._select()
        return self._found

    def step(self, done: float) -> float:
        """Choose, if that is not done; there is nothing to improve."""
        del done
        _ = self.positions
        return 0.0

    def snapshot(self) -> Snapshot:
        images = torch.from_numpy(self.problem.real.images[self.positions].astype(np.float32))
        labels = np.eye(self.problem.class_count, dtype=np.float32)[self.problem.targets]
        return Snapshot(self.problem.reduced(images).numpy(), labels)

    def state(self) -> State:
        return {"positions": self.positions.tolist()}

    def restore(self, state: State) -> None:
        self._found = np.array(state["positions"], dtype=np.int64)


def by_expert(problem: Problem, epochs: int, choose: Choose) -> np.ndarray:
    """What ``choose`` finds in each class, among the features of a network trained on all real images for ``epochs``.

    Returns int64 [per_class * k], class 0 first.  A class of fewer images gives all of them again and again.
    Memory holds the features of one class at a time.  Workers share the classes.
    """
    archive = Archive(problem, Lessons(epochs=epochs), 1)
    archive.provide(1)
    weights = archive.weights(0)
    found = torch.zeros((problem.class_count, problem.per_class), dtype=torch.int64, device=problem.device)
    for index in problem.workers.mine(range(problem.class_count)):
        group = problem.groups[index]
        features = features_of_trained(problem, weights, group)
        if not torch.isfinite(features).all():
            raise Diverged("features that are no numbers", where="expert", remedy="choose another --seed")
        chosen = group[choose(features, min(problem.per_class, len(group)))]
        found[index] = torch.from_numpy(np.resize(chosen, problem.per_class)).to(found.device)
    problem.workers.add_up([found])
    return found.flatten().cpu().numpy()


def features_of_trained(problem: Problem, weights: Weights, positions: np.ndarray) -> torch.Tensor:
    """float32 [n, f]: what the last layer of a trained network in use reads of the real images at ``positions``."""
    batches = [positions[first : first + BATCH] for first in range(0, len(positions), BATCH)]
    with problem.in_use(), torch.no_grad():
        return torch.cat([problem.features(weights, problem.pixels(each)) for each in batches])
