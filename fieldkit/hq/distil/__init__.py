"""Distillation methods by name: one file and one line in the table each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fieldkit.bundle.recipe import Augmentation, Schedule
from fieldkit.errors import UsageError
from fieldkit.hq.distil import distribution, random, unrolled
from fieldkit.hq.distil.problem import Distillation, Problem


@dataclass(frozen=True)
class Method:
    """start: makes a Distillation from (problem, settings).  settings: a frozen dataclass that checks its own values.

    iterations: the budget when the user names none.  training: how a device trains on a set of so many images, when
    the user says nothing.
    """

    start: Callable[[Problem, Any], Distillation]
    settings: Callable[..., Any]
    iterations: int
    training: Callable[[int], Training]


@dataclass(frozen=True)
class Training:
    """How a device trains on a distilled set."""

    schedule: Schedule
    augmentation: Augmentation


def augmented(count: int) -> Training:
    """For sets that were made without regard to a schedule: augmentation makes many of few images."""
    schedule = Schedule(steps=300, batch=min(count, 100), kind="cosine", rate=0.02, warmup=10)
    return Training(schedule, distribution.SIAMESE)


def learnt(count: int) -> Training:
    """For sets that learn their own learning rates: more images take more steps."""
    steps = 40 if count <= 20 else 150
    return Training(Schedule(steps=steps, batch=min(count, 100)), Augmentation())


METHODS: dict[str, Method] = {
    "distribution": Method(distribution.DistributionMatching, distribution.Settings, 1000, augmented),
    "random": Method(random.RandomSelection, random.Settings, 1, augmented),
    "unrolled": Method(unrolled.Unrolled, unrolled.Settings, 2000, learnt),
}


def method(name: str) -> Method:
    """The method of this name."""
    if name not in METHODS:
        raise UsageError(
            "unknown method", where="--method", found=name, expected="one of " + ", ".join(sorted(METHODS))
        )
    return METHODS[name]


def start(name: str, problem: Problem, settings: Mapping[str, Any]) -> Distillation:
    """Begin method ``name`` on ``problem``.  Raises UsageError for an unknown setting or a value out of range."""
    chosen = method(name)
    try:
        made = chosen.settings(**settings)
    except TypeError as error:
        raise UsageError(f"the method has no such setting: {error}", where=f"method {name}") from error
    return chosen.start(problem, made)
