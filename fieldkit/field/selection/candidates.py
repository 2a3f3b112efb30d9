"""The recipes that a device chooses among, with what each takes and reached, and their order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fieldkit.errors import ResourceError
from fieldkit.field.measurement.ranking import Cost, levels, order, pareto, standard_error


@dataclass(frozen=True)
class Candidate:
    """One recipe as it did.

    accuracy, spread: mean and standard deviation over the seeds, 0-1; None where it was not trained.
    steps: of each training, of ``full``.  share: how far it got in the rungs of the halving, 0-1.
    excess: the limits that it breaks, to a ratio above 1.
    state: "trained", "stopped" (early, as too weak), "unfinished" (out of time), "diverged", "excluded" (by limits);
    without a probe "expected" (at HQ) or "unmeasured".
    efficient: whether it is in the Pareto set of accuracy, latency, size and memory.
    """

    recipe: str
    cost: Cost
    full: int
    accuracy: float | None = None
    spread: float = 0.0
    seeds: int = 0
    steps: int = 0
    share: float = 0.0
    state: str = "trained"
    excess: Mapping[str, float] | None = None
    efficient: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "state": self.state,
            "accuracy": self.accuracy,
            "spread": self.spread,
            "seeds": self.seeds,
            "steps": self.steps,
            "full_steps": self.full,
            "pareto": self.efficient,
            **self.cost.to_json(),
            "excess": dict(self.excess or {}),
        }


def ranked(done: Sequence[Candidate], samples: int) -> tuple[list[Candidate], float, tuple[str, ...]]:
    """The candidates best first and marked, the standard error of the best accuracy, and who is within it."""
    scored = {each.recipe: each for each in done if each.accuracy is not None}
    costs = {name: each.cost for name, each in scored.items()}
    latencies, sizes, memories = (levels(costs, what) for what in ("latency", "size", "memory"))
    efficient = pareto(
        {name: (-(each.accuracy or 0.0), latencies[name], sizes[name], memories[name]) for name, each in scored.items()}
    )
    # Only those that were trained alike are compared: on the whole length, or on the longest that time allowed.
    furthest = max(each.share for each in scored.values())
    final = {name: each.accuracy or 0.0 for name, each in scored.items() if each.share == furthest}
    best = max(final.values())
    error = standard_error(best, samples)
    leaders = order(final, latencies, error)
    others = sorted((name for name in scored if name not in final), key=lambda name: -(scored[name].accuracy or 0.0))
    rest = [each.recipe for each in done if each.accuracy is None]
    by_name = {each.recipe: each for each in done}
    placed = [replace(by_name[name], efficient=name in efficient) for name in (*leaders, *others, *rest)]
    return placed, error, tuple(name for name in leaders if final[name] >= best - error)


def none_fits(candidates: Sequence[Candidate]) -> ResourceError:
    """Who breaks which limit, and what the nearest would need."""
    nearest = min(candidates, key=lambda each: max((each.excess or {}).values()))
    needs = {
        "latency": f"--max-latency-ms {math.ceil(1e5 * nearest.cost.latency) / 100}",
        "size": f"--max-size {nearest.cost.size}",
        "memory": f"--max-memory {nearest.cost.memory}",
    }
    needed = " ".join(needs[name] for name in nearest.excess or {})
    return ResourceError(
        "no recipe of the bundle keeps the limits on this device",
        found="; ".join(f"{each.recipe}: {broken_limits(each)}" for each in candidates),
        expected="one within all of them",
        remedy=f"the nearest, {nearest.recipe}, needs {needed}",
    )


def broken_limits(candidate: Candidate) -> str:
    """Which limits a candidate breaks: "latency 1.50x of what is allowed"."""
    return ", ".join(f"{name} {ratio:.2f}x of what is allowed" for name, ratio in (candidate.excess or {}).items())
