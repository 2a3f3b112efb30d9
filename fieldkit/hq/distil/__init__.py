"""Distillation methods by name: one file and one line in the table each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from fieldkit.bundle.recipe import Augmentation, Schedule
from fieldkit.errors import UsageError
from fieldkit.hq.distil import (
    beside,
    bptt,
    characteristic,
    distribution,
    generative,
    gradient,
    herding,
    inversion,
    kcenter,
    patches,
    random,
    ridge,
    siamese,
    trajectory,
    unrolled,
)
from fieldkit.hq.distil.problem import Distillation, Problem

FEW = 20
MILD = Augmentation(shift=0.08, scale=0.1, rotate=10)


@dataclass(frozen=True)
class Method:
    """start: makes a Distillation from (problem, settings).  settings: a frozen dataclass that checks its own values.

    follows: whether it goes along with a device's training step by step, which no regularisation must disturb.

    starts: where its pixels start, one of ``images.STARTS``, unless the user names another; "own", of none of these;
    None, if nothing moves.  labels: of what kind they are, unless the user wants others.  learns: whether it can learn
    soft labels.  coarse: whether products in bfloat16 were seen to do it no harm.  files: settings that name files of
    the user's, which a manifest tells by name and digest alone.

    iterations: the budget when the user names none.  training: how a device trains on a set of so many images, when
    the user says nothing.
    """

    start: Callable[[Problem, Any], Distillation]
    settings: Callable[..., Any]
    iterations: int
    training: Callable[[int], Training]
    follows: bool = False
    starts: str | None = "real"
    labels: str = "hard"
    learns: bool = False
    coarse: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """How a device trains on a distilled set."""

    schedule: Schedule
    augmentation: Augmentation


def augmented(count: int) -> Training:
    """For sets that were made without regard to a schedule: augmentation makes many of few images."""
    schedule = Schedule(steps=300, batch=min(count, 100), kind="cosine", rate=0.02, warmup=10)
    return Training(schedule, siamese.SIAMESE)


def performance(count: int) -> Training:
    """For many images that were made for trainings under a mild augmentation and a high rate."""
    return Training(Schedule(steps=300, batch=min(count, 100), kind="cosine", rate=0.1, warmup=10), MILD)


def unrolling(count: int) -> Training:
    """For unrolled training: few images learn all of a short training's rates; more take a longer, augmented one."""
    if count <= FEW:
        return Training(Schedule(steps=20, batch=count, rate=0.04), Augmentation())
    return Training(Schedule(steps=200, batch=min(count, 50), kind="cosine", rate=0.1, warmup=10), MILD)


METHODS: dict[str, Method] = {
    "beside": Method(
        beside.Beside,
        beside.Settings,
        3000,
        performance,
        follows=True,
        starts="centres",
        labels="learned",
        learns=True,
    ),
    "bptt": Method(bptt.Bptt, bptt.Settings, 1000, performance, starts="centres", labels="learned", learns=True),
    "characteristic": Method(characteristic.CharacteristicMatching, characteristic.Settings, 1000, augmented),
    "distribution": Method(distribution.DistributionMatching, distribution.Settings, 1000, augmented),
    "generative": Method(generative.Generative, generative.Settings, 3000, augmented, starts="own", files=("weights",)),
    "gradient": Method(gradient.GradientMatching, gradient.Settings, 1000, augmented),
    "herding": Method(herding.Herding, herding.Settings, 1, augmented, starts=None),
    "inversion": Method(inversion.Inversion, inversion.Settings, 2000, augmented, labels="teacher"),
    "kcenter": Method(kcenter.KCenter, kcenter.Settings, 1, augmented, starts=None),
    "patches": Method(patches.Patches, patches.Settings, 10, augmented, starts=None, labels="teacher"),
    "random": Method(random.RandomSelection, random.Settings, 1, augmented, starts=None),
    "ridge": Method(
        ridge.Ridge,
        ridge.Settings,
        3000,
        performance,
        follows=True,
        starts="centres",
        labels="learned",
        learns=True,
        coarse=True,
    ),
    "trajectory": Method(
        trajectory.TrajectoryMatching, trajectory.Settings, 1000, augmented, labels="learned", learns=True
    ),
    "unrolled": Method(
        unrolled.Unrolled,
        unrolled.Settings,
        2000,
        unrolling,
        follows=True,
        starts="centres",
        labels="learned",
        learns=True,
    ),
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
    return method(name).start(problem, check_settings(name, settings))


def check_settings(name: str, values: Mapping[str, Any]) -> Any:
    """The settings dataclass of method ``name`` from plain values, whatever the problem.

    Raises UsageError for an unknown method or setting, or a value that is of the wrong kind or out of range.
    """
    settings = method(name).settings
    known = get_type_hints(settings)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError(
            "the method has no such setting",
            where=f"method {name}",
            found=", ".join(unknown),
            expected=", ".join(known) or "none: it has no settings",
        )
    for key, value in values.items():
        if not _of_kind(value, known[key]):
            kind = getattr(known[key], "__name__", known[key])
            raise UsageError("wrong kind of value", where=f"{name} {key}", found=repr(value), expected=kind)
        least = 1 if isinstance(1, known[key]) else 0
        if isinstance(value, int | float) and not least <= value <= sys.float_info.max:
            expected = f"a {'whole' if least else 'finite'} number of at least {least}"
            raise UsageError("out of range", where=f"{name} {key}", found=str(value)[:40], expected=expected)
    return settings(**values)


def _of_kind(value: Any, kind: Any) -> bool:
    """True if ``value`` is what an annotation says, a whole number being a number; true and false are none."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, kind) or (isinstance(value, int) and isinstance(0.0, kind))
