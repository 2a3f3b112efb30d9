"""Several processes at work on one distillation: torch.distributed, as ``torchrun`` starts it.

Every worker holds the same distilled set and draws the same randoms.  Each computes its own part of an iteration's loss
(some of the real images, or of the classes), and the parts' gradients are added up before all make the same step.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import distributed

Listed = TypeVar("Listed", np.ndarray, Sequence[int])
Made = TypeVar("Made")
# How torchrun tells each process that it is one of several.
RANK, SIZE, LOCAL = "RANK", "WORLD_SIZE", "LOCAL_RANK"


@dataclass(frozen=True)
class Workers:
    """This process's rank among ``size`` workers; alone by default."""

    rank: int = 0
    size: int = 1

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

    @property
    def first(self) -> bool:
        """Whether this is the worker that judges, writes files and talks to people."""
        return self.rank == 0

    def told(self, make: Callable[[], Made]) -> Made:
        """What ``make`` gives the first worker, for what depends on its clock or its files; the others get a copy."""
        if self.size == 1:
            return make()
        told: list[Any] = [make() if self.first else None]
        distributed.broadcast_object_list(told, src=0)
        return told[0]  # type: ignore[no-any-return]


@contextmanager
def joined() -> Iterator[Workers]:
    """The workers that torchrun has started, met for as long as the block runs; alone without torchrun.

    Gradients on a GPU go through NCCL, all else through Gloo.
    """
    size = int(os.environ.get(SIZE, "1"))
    if size == 1 or RANK not in os.environ:
        yield Workers()
        return
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Workers(int(os.environ[RANK]), size)
    finally:
        distributed.destroy_process_group()


def hardware(device: str, workers: Workers) -> str:
    """On what a distillation runs, by its kind alone: "2 threads of x86_64 (AVX512)", "4 x NVIDIA H100 80GB HBM3"."""
    if torch.device(device).type == "cuda":
        one = torch.cuda.get_device_name(device)
    else:
        one = f"{torch.get_num_threads()} threads of {platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
    return one if workers.size == 1 else f"{workers.size} x {one}"


def own_device() -> str:
    """Where this process computes: a GPU of its own if there is one."""
    return f"cuda:{os.environ.get(LOCAL, '0')}" if torch.cuda.is_available() else "cpu"
