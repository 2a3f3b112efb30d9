"""Workers that are threads of this process: what they add up is added up, without a process group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from fieldkit.hq.distil.workers import Workers

Result = TypeVar("Result")
Made = TypeVar("Made")
LONGEST_WAIT = 300.0


def together(size: int, work: Callable[[Workers], Result]) -> list[Result]:
    """What ``work`` gives each of ``size`` workers that run at the same time, by rank."""
    barrier = threading.Barrier(size, timeout=LONGEST_WAIT)
    given: dict[int, torch.Tensor] = {}
    said: list[Any] = []

    class Crew(Workers):
        def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
            for each in tensors:
                given[self.rank] = each.detach().clone()
                barrier.wait()
                total = torch.stack([given[rank] for rank in range(size)]).sum(dim=0)
                barrier.wait()
                with torch.no_grad():
                    each.copy_(total)

        def told(self, make: Callable[[], Made]) -> Made:
            if self.first:
                said[:] = [make()]
            barrier.wait()
            answer: Made = said[0]
            barrier.wait()
            return answer

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, [Crew(rank, size) for rank in range(size)]))
