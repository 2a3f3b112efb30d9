"""Baseline: real samples near which every other lies, by greedy k-centre.

Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018 (arXiv
1708.00489), algorithm 1 (Gonzalez 1985): one image after the other is taken, each time the one whose features lie
farthest from those of all that were taken; the largest distance is at most twice the least possible.  Features are
those of a network trained on the real images.  The images that leave the building are real.

Differs in that each class is covered on its own, beginning with the image nearest to the class's mean, where the
authors begin with labelled images that they have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fieldkit.hq.distil.coreset import Coreset, by_expert
from fieldkit.hq.distil.problem import Problem


@dataclass(frozen=True)
class Settings:
    """epochs: passes over the real images that train the network whose features are compared."""

    epochs: int = 10


class KCenter(Coreset):
    """The first ``per_class`` of each class in the order in which the farthest comes first."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        super().__init__(problem, lambda: by_expert(problem, settings.epochs, farthest_first))


def farthest_first(features: torch.Tensor, count: int) -> np.ndarray:
    """Positions of ``count`` of the features float32 [n, f], in the order of their choice: int64 [count]."""
    place = int(_distances(features, features.mean(dim=0)).argmin())
    nearest = torch.full((len(features),), torch.inf, device=features.device)
    found = [place]
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, _distances(features, features[place]))
        # What is taken stays behind even those at no distance from it.
        nearest[place] = -1.0
        place = int(nearest.argmax())
        found.append(place)
    return np.array(found, dtype=np.int64)


def _distances(features: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances float32 [n] of features [n, f] from a point [f]."""
    return (features - point).square().sum(dim=1)
