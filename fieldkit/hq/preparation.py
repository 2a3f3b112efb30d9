"""What a distillation starts from: the data cut in parts, the recipes compiled, the problem posed."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Initial, Recipe
from fieldkit.field.datasets import Dataset, check_enough
from fieldkit.field.datasets.storage import Storage
from fieldkit.hq.compiler import Compiled, Data, compile_recipe, network
from fieldkit.hq.compiler.updates import Regularisation
from fieldkit.hq.distil import method
from fieldkit.hq.distil.choice import Situation, choose
from fieldkit.hq.distil.problem import PRECISIONS, Problem, silent, suited
from fieldkit.hq.distil.workers import own_device
from fieldkit.hq.earlier import Tasks, open_earlier
from fieldkit.hq.models import recipe_name
from fieldkit.hq.models.halving import quickened
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.models.twice import twice_differentiable
from fieldkit.hq.models.whitening import MEASURED, whitening_kernel
from fieldkit.hq.sources import load
from fieldkit.hq.spec import AUTO, RecipeSpec, Spec, check_fits
from fieldkit.hq.splitting import Splits, held_out_size, split

# The folder beside a bundle for what its distillation may find again, and digits of a digest that tell models apart.
CACHE = "fieldkit-cache"
DIGITS = 16
# Images in the batch that shows how fast a network is here.
PASS = 32
# How many times as fast a coarser precision must be.
SURELY = 1.3


@dataclass(frozen=True)
class Material:
    """A data set, its parts, what recipes must know of it, and the earlier tasks, if any, that it comes after."""

    dataset: Dataset
    splits: Splits
    data: Data
    tasks: Tasks | None = None

    @property
    def of_all(self) -> Data:
        """What a recipe with outputs for earlier and own classes must know, and none to spare."""
        known = 0 if self.tasks is None else len(self.tasks.classes)
        return replace(self.data, class_count=known + self.data.class_count, spare=0)


@contextmanager
def stored(output: Path, rank: int) -> Iterator[Storage]:
    """Where the data of a build of ``output`` is put in the worker of this rank, for as long as the block runs.

    Many images go into files in the cache beside ``output``, under a name that only such a build has: what a killed one
    left is replaced by the next.
    """
    folder = output.parent / CACHE / f"images-{output.name}-{rank}"
    try:
        yield Storage(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # The cache may hold more.
        with suppress(OSError):
            folder.parent.rmdir()


def read(spec: Spec, storage: Storage) -> Material:
    """The data of a spec, its images put into ``storage``, cut in parts.

    Raises UsageError where the spec does not fit the images, DataError for data that cannot be distilled or not beside
    the earlier bundles, ResourceError if the images do not fit where they are put.
    """
    dataset = load(spec.data, storage)
    check_fits(spec, dataset.train.images)
    tasks = open_earlier(spec.beside, dataset)
    class_count = len(dataset.classes)
    held_out = held_out_size(len(dataset.train), class_count)
    check_enough(dataset, spec.per_class, probe=spec.probe, held_out=held_out)
    splits = split(dataset.train, class_count, spec.probe, spec.seed)
    return Material(dataset, splits, describe(spec, dataset, splits, tasks), tasks)


def describe(spec: Spec, dataset: Dataset, splits: Splits, tasks: Tasks | None = None) -> Data:
    """What recipes must know of the data; the statistics are those of the images that are distilled.

    After earlier tasks they are those of the first: a device goes on with its model, which normalises by them.
    """
    real = splits.real.images
    radiometry = Radiometry.measure(real, dataset.bands) if tasks is None else tasks.bundles[0].manifest.radiometry
    kernel = None
    if spec.whiten is not None:
        some = np.linspace(0, len(real) - 1, min(len(real), MEASURED)).astype(int)
        kernel = whitening_kernel(Normalise(radiometry)(torch.from_numpy(real[some])), spec.whiten)
    channels, height, width = real.shape[1:]
    return Data((channels, height, width), len(dataset.classes), radiometry, spec.spare_classes, kernel)


def decided(spec: Spec, material: Material, note: Callable[[str], None]) -> Spec:
    """The spec with a method in the place of "auto", and a precision; ``note`` is told which, and why."""
    spec = _with_method(spec, material, note) if spec.method == AUTO else spec
    return _with_precision(spec, material, note) if spec.precision is None else spec


def _with_method(spec: Spec, material: Material, note: Callable[[str], None]) -> Spec:
    shape = material.data.input_shape
    situation = Situation(
        images=len(material.splits.real),
        distilled=spec.per_class * material.data.class_count,
        values=math.prod(shape) // spec.formation**2,
        classes=material.data.class_count,
        fixed=spec.init == "fixed",
        regularised=spec.regularisation != Regularisation(),
        seconds=None if spec.budget is None else spec.budget.seconds,
        pass_seconds=_pass_seconds(spec.recipes[0], material, PRECISIONS[0]),
        moved=spec.start is not None,
        learned=spec.labels is not None and spec.labels.kind == "learned",
        beside=bool(spec.beside),
    )
    name, reason = choose(situation)
    note(f"method {name}: {reason}")
    return replace(spec, method=name)


def _with_precision(spec: Spec, material: Material, note: Callable[[str], None]) -> Spec:
    """Float32, or what is surely quicker, if the bytes of the bundle depend on the machine's speed anyway."""
    exact, coarse = PRECISIONS
    if spec.limits.seconds is None or not method(spec.method).coarse:
        return replace(spec, precision=exact)
    slow, quick = (_pass_seconds(spec.recipes[0], material, each) for each in PRECISIONS)
    if slow < SURELY * quick:
        return replace(spec, precision=exact)
    note(f"precision {coarse}: {slow / quick:.1f} times as fast as {exact} here")
    return replace(spec, precision=coarse)


def _pass_seconds(recipe: RecipeSpec, material: Material, precision: str) -> float:
    """What one image's way forward through a recipe's network takes here, the best of some batches."""
    device = own_device()
    module = network(recipe.architecture, recipe.options, material.data)
    pixels = suited(torch.zeros(PASS, *material.data.input_shape, device=device), precision)
    times = []
    half = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == PRECISIONS[1])
    with torch.no_grad(), half:
        module = module.to(device)
        for _ in range(3):
            began = time.monotonic()
            module(pixels).cpu()
            times.append(time.monotonic() - began)
    return min(times) / PASS


def compile_all(spec: Spec, data: Data) -> dict[str, Compiled]:
    """Every recipe of the spec by its name in the bundle; the parity of each is proven."""
    own = method(spec.method).training(spec.per_class * data.class_count)
    schedule = own.schedule if spec.steps is None else own.schedule.with_steps(spec.steps)
    if spec.optimiser.usual_rate is not None:
        schedule = replace(schedule, rate=spec.optimiser.usual_rate)
    schedule = replace(schedule, **spec.schedule)
    if spec.batch is not None:
        schedule = replace(schedule, batch=spec.batch)
    augmentation = replace(own.augmentation, **spec.augmentation)
    compiled: dict[str, Compiled] = {}
    for each in spec.recipes:
        name = recipe_name(each.architecture)
        name = name if name not in compiled else f"{name}-{len(compiled) + 1}"
        made = compile_recipe(
            each.architecture,
            each.options,
            data,
            optimiser=spec.optimiser,
            schedule=schedule,
            augmentation=augmentation,
            regularisation=spec.regularisation,
            scopes=spec.scopes,
        )
        initial = Initial(seed=spec.seed if spec.init == "fixed" else None)
        recipe = replace(made.recipe, name=name).with_training(schedule, initial)
        compiled[name] = replace(made, recipe=recipe)
    return compiled


def pose(spec: Spec, material: Material, recipe: Recipe, output: Path, note: Callable[[str], None] = silent) -> Problem:
    """The problem that the method is given: real images, and the recipe that the set is distilled for.

    What is dear to make is kept beside ``output``, for any bundle there with the same model and data.
    """
    data, device = material.data, own_device()
    normalise = Normalise(data.radiometry).to(device)
    earlier = None
    if material.tasks is not None:
        earlier = material.tasks.posed(_posed_network(spec, material.of_all, device), normalise, device)
    return Problem(
        real=material.splits.real,
        module=_posed_network(spec, data, device),
        normalise=normalise,
        ipc=spec.ipc,
        formation=spec.formation,
        class_count=data.class_count,
        schedule=recipe.schedule,
        optimiser=spec.optimiser,
        initial=recipe.initial,
        augmentation=recipe.augmentation,
        levels=spec.levels or np.iinfo(data.radiometry.dtype).max + 1,
        seed=spec.seed,
        device=device,
        precision=spec.precision or PRECISIONS[0],
        start=spec.start,
        labels=None if spec.labels is None else spec.labels.meanwhile,
        earlier=earlier,
        cache=output.parent / CACHE / hashlib.sha256(recipe.programs["predict"]).hexdigest()[:DIGITS],
        note=note,
    )


def _posed_network(spec: Spec, data: Data, device: str) -> nn.Module:
    """The first recipe's network, as a method sees it."""
    first = spec.recipes[0]
    module = network(first.architecture, first.options, data)
    # A method sees networks that drop nothing out: what it compares would be noise, and none that a seed repeats.
    for each in module.modules():
        each.train(any(True for _ in each.parameters()))
    module = twice_differentiable(module)
    return (quickened(module) if device == "cpu" else module).to(device)
