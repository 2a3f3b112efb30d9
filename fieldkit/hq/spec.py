"""What a build is told, and the checks of it that need no data."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.recipe import SCHEDULES, SCOPES, Augmentation, Schedule, is_scope
from fieldkit.bundle.seal import MAX_NAME, MAX_SERIAL, name_fits
from fieldkit.errors import UsageError
from fieldkit.field.engine.training import MAX_SEED
from fieldkit.hq.compiler import Optimiser, Sgd
from fieldkit.hq.compiler.updates import Regularisation
from fieldkit.hq.distil import METHODS, check_settings, method
from fieldkit.hq.distil.driver import Budget
from fieldkit.hq.distil.images import STARTS
from fieldkit.hq.distil.labels import Labels
from fieldkit.hq.distil.problem import PRECISIONS
from fieldkit.hq.models import check_options

AUTO, BESIDE = "auto", "beside"


@dataclass(frozen=True)
class RecipeSpec:
    """One recipe to compile: an architecture's name and its options."""

    architecture: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """Everything that decides what a build makes.

    data: what ``fieldkit.hq.sources.load`` takes.  ipc: distilled images per class.
    formation: distilled images stored in the place of one, along each axis; 2 makes four times as many, half as large.
    spare_classes: outputs of the recipes beside those of the classes, for classes that a device will add.
    method, settings: the distillation and its own settings; "auto" takes the one that suits (choice.py).
    beside: files of the bundles of earlier tasks, first learnt first, beside which a device will learn this one.
    init: "fixed" or "random".
    precision: of the products of the distillation, one of ``problem.PRECISIONS``; devices train in float32.  None takes
    float32; or, if time is what is budgeted, the quicker of both here where the method is known to stand it.
    start: where the distilled pixels start, one of ``images.STARTS``; labels: of which kind the images have them; None
    of either takes the method's own.
    recipes: the first is the one that the set is distilled for.  steps, batch: how long a device trains, and on how
    many images at a time; None takes the method's own.
    schedule, augmentation: what the recipes' own have in place of the method's, by the names of ``Schedule`` and of
    ``Augmentation``.
    optimiser, regularisation: inside the train programs.  scopes: of the train programs that each recipe gets.
    budget: how long to distil; None takes the method's own iterations.
    whiten: side, in pixels, of the surroundings by which images are whitened on their way into every network; None does
    without.
    probe: real images that the bundle carries.  levels: of a stored pixel; None takes all that its dtype has.
    seed: of all randomness.  name: the bundle's; None takes the file's.
    serial: of this issue; a device that trusts whoever signs it takes no lower one of that name afterwards.
    threads: of torch and onnxruntime; None takes every processor.
    """

    data: str
    ipc: int = 10
    formation: int = 1
    spare_classes: int = 0
    method: str = AUTO
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    init: str = "random"
    precision: str | None = None
    start: str | None = None
    labels: Labels | None = None
    recipes: tuple[RecipeSpec, ...] = (RecipeSpec("convnet"),)
    steps: int | None = None
    batch: int | None = None
    schedule: Mapping[str, Any] = field(default_factory=dict)
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    optimiser: Optimiser = field(default_factory=Sgd)
    regularisation: Regularisation = field(default_factory=Regularisation)
    scopes: tuple[str, ...] = ("full",)
    budget: Budget | None = None
    probe: int = 0
    whiten: int | None = None
    levels: int | None = None
    seed: int = 0
    name: str | None = None
    serial: int = 0
    threads: int | None = None

    @property
    def per_class(self) -> int:
        """Distilled images of each class, whatever size they are stored at."""
        return self.ipc * self.formation**2

    @property
    def limits(self) -> Budget:
        """The budget, or the method's own number of iterations."""
        return self.budget or Budget(iterations=method(self.method).iterations)


def check(spec: Spec, output: Path) -> None:
    """Refuse what no data set can make right, before it is read."""
    name = bundle_name(spec, output)
    if not name_fits(name):
        expected = f"1 to {MAX_NAME} printable characters"
        raise UsageError("not a name for a bundle", where="name", found=repr(name), expected=expected)
    if os.path.exists(output) and os.path.exists(spec.data) and os.path.samefile(output, spec.data):
        raise UsageError("the bundle would replace the data it is made from", where=output, remedy="name another file")
    if spec.budget is not None and not math.isfinite(spec.budget.seconds or 0.0):
        raise UsageError("not a length of time", where="minutes", found=spec.budget.seconds, expected="a finite number")
    if spec.seed > MAX_SEED:
        raise UsageError("a seed out of range", where="seed", found=spec.seed, expected=f"0 to {MAX_SEED}")
    least_of = {"ipc": 1, "formation": 1, "probe": 0, "seed": 0, "spare_classes": 0, "serial": 0}
    for where, least in least_of.items():
        value = getattr(spec, where)
        if value < least:
            raise UsageError("too small", where=where, found=value, expected=f"at least {least}")
    if spec.serial > MAX_SERIAL:
        raise UsageError("not a serial number", where="serial", found=spec.serial, expected=f"0 to {MAX_SERIAL}")
    if spec.init not in ("fixed", "random"):
        raise UsageError("unknown kind of initial weights", where="init", found=spec.init, expected="fixed or random")
    if spec.precision not in (None, *PRECISIONS):
        expected = " or ".join(PRECISIONS)
        raise UsageError("unknown precision", where="precision", found=spec.precision, expected=expected)
    if not spec.recipes:
        raise UsageError("a bundle needs a recipe", where="recipes", expected="at least one")
    _check_training(spec)
    _check_method(spec)
    for each in spec.recipes:
        check_options(each.architecture, each.options)


def _check_method(spec: Spec) -> None:
    """The method is known, takes these settings, and can go along with the device's training."""
    if spec.method == AUTO:
        if spec.settings:
            found = ", ".join(spec.settings)
            remedy = "name the method that they belong to"
            raise UsageError("settings belong to a method", where=f"method {AUTO}", found=found, remedy=remedy)
        return
    check_settings(spec.method, spec.settings)
    if spec.beside and spec.method != BESIDE:
        raise UsageError(
            "the method knows no earlier sets",
            where=f"method {spec.method}",
            found=f"beside {', '.join(map(str, spec.beside))}",
            expected=f"method {BESIDE} or {AUTO}",
            remedy=f"take --method {BESIDE}, or leave --beside out",
        )
    _check_wishes(spec)
    if method(spec.method).follows and spec.regularisation != Regularisation():
        raise UsageError(
            "the method follows a device's training, which it cannot do through regularisation",
            where=f"method {spec.method}",
            found=spec.regularisation,
            expected="no regularisation",
            remedy="choose a method that does not follow the device (docs/methods.md), or leave the regularisation out",
        )


def _check_wishes(spec: Spec) -> None:
    """Where pixels start, and of what kind labels are, must be in the method's power."""
    if spec.start is not None and spec.start not in STARTS:
        raise UsageError("unknown start", where="start", found=spec.start, expected=", ".join(STARTS))
    if spec.start is not None and method(spec.method).starts is None:
        raise UsageError(
            "the method moves no pixels, so they start nowhere",
            where=f"method {spec.method}",
            found=f"start {spec.start}",
            expected="one of " + ", ".join(name for name, each in METHODS.items() if each.starts),
        )
    if spec.labels is not None and spec.labels.kind == "learned" and not method(spec.method).learns:
        raise UsageError(
            "the method cannot learn labels",
            where=f"method {spec.method}",
            found="labels learned",
            expected="one of " + ", ".join(name for name, each in METHODS.items() if each.learns),
            remedy="choose another method, or labels teacher",
        )


def _check_training(spec: Spec) -> None:
    """How a device trains must be something that the compiler writes and, where it goes along, the method follows."""
    if "full" not in spec.scopes:
        raise UsageError("the set is distilled for whole trainings", where="scopes", expected="full among them")
    for scope in spec.scopes:
        if not is_scope(scope):
            expected = f"{', '.join(SCOPES)}, or last-K with K from 1 to 99"
            raise UsageError("unknown scope", where="scopes", found=scope, expected=expected)
    known = {each.name for each in fields(Schedule)} - {"steps", "batch", "rates"}
    unknown = sorted(set(spec.schedule) - known)
    if unknown or spec.schedule.get("kind", "cosine") not in SCHEDULES[:-1]:
        found = ", ".join(unknown) or spec.schedule["kind"]
        expected = f"{', '.join(SCHEDULES[:-1])} with {', '.join(sorted(known - {'kind'}))}"
        raise UsageError("unknown schedule", where="schedule", found=found, expected=expected)
    for name, value in spec.schedule.items():
        if name != "kind" and not _fits_schedule(name, value):
            expected = {"warmup": "a whole number", "milestones": "whole numbers"}.get(name, "a finite number")
            raise UsageError("wrong value", where=f"schedule {name}", found=repr(value), expected=f"{expected} from 0")
    _check_augmentation(spec.augmentation)


def _check_augmentation(strengths: Mapping[str, Any]) -> None:
    kinds = {each.name: type(each.default) for each in fields(Augmentation)}
    unknown = sorted(set(strengths) - set(kinds))
    if unknown:
        found, expected = ", ".join(unknown), ", ".join(kinds)
        raise UsageError("unknown augmentation", where="augmentation", found=found, expected=expected)
    for name, value in strengths.items():
        switch = kinds[name] is bool
        fits = isinstance(value, bool) if switch else not isinstance(value, bool) and isinstance(value, int | float)
        if not fits or not 0 <= value < math.inf:
            expected = "true or false" if switch else "a finite number from 0"
            raise UsageError("wrong value", where=f"augmentation {name}", found=repr(value), expected=expected)


def _fits_schedule(name: str, value: Any) -> bool:
    """Whether ``value`` is of the kind that this field of a schedule takes, and not negative."""
    values = value if name == "milestones" and isinstance(value, tuple) else (value,)
    kinds = int if name in ("warmup", "milestones") else (int, float)
    return all(isinstance(each, kinds) and not isinstance(each, bool) and 0 <= each < math.inf for each in values)


def bundle_name(spec: Spec, output: Path) -> str:
    """What the bundle is called: what the spec says, or the file's name."""
    return output.stem if spec.name is None else spec.name


def check_fits(spec: Spec, images: np.ndarray) -> None:
    """Refuse a spec that these images, native counts [n, c, h, w], cannot follow."""
    most, least = int(np.iinfo(images.dtype).max) + 1, min(images.shape[2:])
    if spec.levels is not None and not 2 <= spec.levels <= most:
        expected = f"2 to {most} of {images.dtype} pixels"
        raise UsageError("levels do not fit", where="levels", found=spec.levels, expected=expected)
    if spec.formation > least:
        found = f"{spec.formation} for images of {images.shape[2]} x {images.shape[3]} pixels"
        raise UsageError("images too small", where="formation", found=found, expected=f"at most {least}")
