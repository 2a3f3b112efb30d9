"""Which model is best on a device: limits, the Pareto set, and an order that knows what a score cannot tell apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key")
NOISE = {"latency": 0.05, "memory": 0.03, "size": 0.01}
"""Shares by which measurements of one model differ on a device that has other work too; of sizes, what nobody minds."""


@dataclass(frozen=True)
class Cost:
    """What a model takes on this device.

    size: bytes of its file.  latency: median seconds for one image.  rate: images a second in batches.
    memory: peak bytes of a process that opens the model and predicts, with Python and onnxruntime.
    """

    size: int
    latency: float
    rate: float
    memory: int

    def to_json(self) -> dict[str, float]:
        return {
            "bytes": self.size,
            "latency_ms": 1e3 * self.latency,
            "images_per_second": self.rate,
            "memory": self.memory,
        }


@dataclass(frozen=True)
class Limits:
    """The most that a model may take; None for no limit.  latency: seconds.  size, memory: bytes."""

    latency: float | None = None
    size: int | None = None
    memory: int | None = None

    def excess(self, cost: Cost) -> dict[str, float]:
        """By how much a cost is above each limit that it breaks: "latency", "size" and "memory" to a ratio above 1."""
        ratios = {name: getattr(cost, name) / limit for name, limit in vars(self).items() if limit is not None}
        return {name: ratio for name, ratio in ratios.items() if ratio > 1.0}


def pareto(points: Mapping[Key, Sequence[float]]) -> set[Key]:
    """The points that no other is at least as good as in all respects and better in one; lower is better."""
    return {
        key
        for key, mine in points.items()
        if not any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and tuple(other) != tuple(mine)
            for other in points.values()
        )
    }


def standard_error(accuracy: float, samples: int) -> float:
    """The standard error of an accuracy measured on ``samples`` images, 0-1.

    With two more of either outcome (Agresti & Coull 1998), so that it is not 0 where all images are right.
    """
    smoothed = (accuracy * samples + 2.0) / (samples + 4.0)
    return math.sqrt(smoothed * (1.0 - smoothed) / (samples + 4.0))


def levels(costs: Mapping[Key, Cost], what: str) -> dict[Key, float]:
    """One measure of each cost, made equal where it is within ``NOISE`` of the least that is near.

    what: "latency", "memory" or "size".
    """
    values: dict[Key, float] = {key: getattr(each, what) for key, each in costs.items()}
    found: dict[Key, float] = {}
    least = -math.inf
    for key in sorted(values, key=lambda key: values[key]):
        if values[key] > least * (1.0 + NOISE[what]):
            least = values[key]
        found[key] = least
    return found


def order(accuracies: Mapping[str, float], latencies: Mapping[str, float], margin: float) -> list[str]:
    """Names, best first: those within ``margin`` of the highest accuracy by latency, then the rest by accuracy."""
    highest = max(accuracies.values(), default=0.0)
    tied = [name for name, accuracy in accuracies.items() if accuracy >= highest - margin]
    rest = [name for name in accuracies if name not in tied]
    quick = sorted(tied, key=lambda name: (latencies[name], -accuracies[name]))
    return quick + sorted(rest, key=lambda name: -accuracies[name])
