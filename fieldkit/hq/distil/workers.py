"""Several processes at work on one distillation: torch.distributed, as ``torchrun`` starts it.

Every worker holds the same distilled set and draws the same randoms.  Each computes its own part of an iteration's loss
(some of the real images, or of the classes), and the parts' gradients are added up before all make the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import distributed

Listed = TypeVar("Listed", np.ndarray, Sequence[int])


@dataclass(frozen=True)
class Workers:
    """This process's rank among ``size`` workers; alone by default."""

    rank: int = 0
    size: int = 1

    @classmethod
    def running(cls) -> Workers:
        """Those of the process group that this process has joined; alone if it joined none."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    def mine(self, items: Listed) -> Listed:
        """This worker's part of a list or an array's rows: every ``size``-th; maybe none."""
        return items[self.rank :: self.size]

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor, in place, by its sum over all workers."""
        if self.size > 1:
            for tensor in tensors:
                distributed.all_reduce(tensor)

    def total(self, part: torch.Tensor) -> float:
        """The sum of a number's parts over all workers."""
        whole = part.detach().clone()
        self.add_up([whole])
        return float(whole)

    def agreed(self, value: float) -> float:
        """The first worker's value, for what depends on its clock."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(shared, src=0)
        return float(shared)
