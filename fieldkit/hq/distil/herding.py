"""Baseline: real samples whose features have the mean of their class, by herding.

Welling, "Herding Dynamical Weights to Learn", ICML 2009; Rebuffi, Kolesnikov, Sperl & Lampert, "iCaRL: Incremental
Classifier and Representation Learning", CVPR 2017 (arXiv 1611.07725), algorithm 4: one image after the other is taken,
each time the one that brings the mean of the chosen features closest to the mean of all.  Features are those of a
network trained on the real images, of length 1, as in iCaRL.  The images that leave the building are real.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fieldkit.hq.distil.coreset import Coreset, by_expert
from fieldkit.hq.distil.problem import Problem


@dataclass(frozen=True)
class Settings:
    """epochs: passes over the real images that train the network whose features are compared."""

    epochs: int = 10


class Herding(Coreset):
    """The first ``per_class`` of each class in the order in which herding takes them."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        super().__init__(problem, lambda: by_expert(problem, settings.epochs, herded))


def herded(features: torch.Tensor, count: int) -> np.ndarray:
    """Positions of ``count`` of the features float32 [n, f], in the order of their choice: int64 [count].

    Of all that were not taken yet, the next is argmin |mean - (taken + feature) / t|^2 over the features of length 1;
    with t taken in the end that is argmax feature . (t mean - taken), since all lengths are the same.
    """
    directions = functional.normalize(features, dim=1)
    mean, taken = directions.mean(dim=0), torch.zeros_like(directions[0])
    left = torch.zeros(len(directions), device=directions.device)
    found: list[int] = []
    for number in range(1, count + 1):
        place = int((directions @ (number * mean - taken) + left).argmax())
        found.append(place)
        left[place] = -torch.inf
        taken = taken + directions[place]
    return np.array(found, dtype=np.int64)
