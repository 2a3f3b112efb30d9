"""torch's global random numbers, from a seed of one's own."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeVar

import torch

Made = TypeVar("Made")
# The generator belongs to the whole process: of two threads, one would go on with the other's numbers.
_ONE_AT_A_TIME = Lock()


def seeded(make: Callable[[], Made], seed: int) -> Made:
    """What ``make`` makes when torch's random numbers begin at ``seed``; they are left as they were."""
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
