"""Whether the parts of a bundle fit together; asked by the writer before and by the reader after."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.layout import IMAGES, RECIPE_NAME
from fieldkit.bundle.manifest import TASKS, class_name_fits
from fieldkit.bundle.recipe import LAWS, MAX_RANK, SCHEDULES, Recipe, Schedule, Tensor, is_scope
from fieldkit.bundle.seal import MAX_NAME, name_fits

MAX_SEED = 2**64 - 1
MAX_PARAMETERS = 2**30
"""Values of a recipe's parameters, and of the states of one scope; what travels as weights is bounded by the layout."""


def faults(bundle: Bundle) -> list[str]:
    """Everything in ``bundle`` that contradicts something else in it or the format, one sentence each."""
    found = [*_manifest_faults(bundle), *_distilled_faults(bundle), *_probe_faults(bundle)]
    for recipe in bundle.recipes.values():
        found += [f"recipe {recipe.name}: {each}" for each in _recipe_faults(recipe)]
    return found


def _manifest_faults(bundle: Bundle) -> Iterator[str]:
    manifest, radiometry = bundle.manifest, bundle.manifest.radiometry
    if not name_fits(manifest.name):
        yield f"manifest name: found {manifest.name!r}; expected 1 to {MAX_NAME} printable characters"
    if manifest.task not in TASKS:
        yield f"manifest task: found {manifest.task!r}; expected {' or '.join(TASKS)}"
    if not manifest.classes or len(set(manifest.classes)) != len(manifest.classes):
        yield "manifest classes: expected different names, at least one"
    if not all(map(class_name_fits, manifest.classes)):
        yield "manifest classes: a name is empty or holds control characters"
    if manifest.spare_classes < 0:
        yield f"manifest spare_classes: found {manifest.spare_classes}; expected a number from 0"
    if min(manifest.input_shape) < 1:
        yield f"manifest input_shape: found {manifest.input_shape}; expected positive numbers"
    lengths = {len(radiometry.bands), len(radiometry.mean), len(radiometry.std)}
    if lengths != {manifest.input_shape[0]}:
        yield f"manifest radiometry: bands, mean and std are not all of the {manifest.input_shape[0]} channels"
    if not all(math.isfinite(value) for value in radiometry.mean + radiometry.std) or min(radiometry.std) <= 0:
        yield "manifest radiometry: mean and std must be finite, std positive"
    if not bundle.recipes or sorted(manifest.recipes) != sorted(bundle.recipes):
        yield f"recipes: found {sorted(bundle.recipes)}; the manifest names {sorted(manifest.recipes)}"
    for recipe, splits in manifest.expectations.items():
        if recipe not in manifest.recipes:
            yield f"manifest expectations: {recipe!r} is not among the recipes"
        for split, each in splits.items():
            if not 0 <= each.low <= each.mean <= each.high <= 1:
                yield f"manifest expectations {recipe} {split}: expected 0 <= low <= mean <= high <= 1"


def _distilled_faults(bundle: Bundle) -> Iterator[str]:
    shape, pixels, labels = bundle.manifest.input_shape, bundle.images, bundle.labels
    stored = pixels.codes.shape[1:]
    if stored[0] != shape[0] or any(own > full for own, full in zip(stored[1:], shape[1:], strict=True)):
        yield f"distilled images: found {stored}; expected the manifest's input_shape {shape}, or a smaller image"
    whole = len(pixels.codes) * math.prod(shape) * pixels.codes.itemsize
    if whole > IMAGES.limit:
        yield f"distilled images: {whole} bytes at the size of the input; expected at most {IMAGES.limit}"
    if pixels.scale.shape != shape[:1] or pixels.offset.shape != shape[:1]:
        yield f"distilled scale and offset: expected one value for each of {shape[0]} channels"
    if not np.isfinite(pixels.scale).all() or (pixels.scale <= 0).any() or not np.isfinite(pixels.offset).all():
        yield "distilled scale and offset: must be finite, scale positive"
    expected = (len(pixels.codes), len(bundle.manifest.classes))
    if labels.shape != expected:
        yield f"distilled labels: found {labels.shape}; expected (images, classes) = {expected}"
    if not np.isfinite(labels).all():
        yield "distilled labels: NaN or infinity"


def _probe_faults(bundle: Bundle) -> Iterator[str]:
    if bundle.probe is None:
        return
    images, targets, manifest = bundle.probe.images, bundle.probe.targets, bundle.manifest
    if images.shape[1:] != manifest.input_shape:
        yield f"probe images: found {images.shape[1:]}; the manifest's input_shape is {manifest.input_shape}"
    if images.dtype.name != manifest.radiometry.dtype:
        yield f"probe images: found {images.dtype}; the manifest's radiometry says {manifest.radiometry.dtype}"
    if targets.shape != images.shape[:1]:
        yield f"probe targets: found {targets.shape}; expected one for each of {len(images)} images"
    if len(targets) and not 0 <= int(targets.min()) <= int(targets.max()) < len(manifest.classes):
        yield f"probe targets: expected class indices 0 to {len(manifest.classes) - 1}"


def _recipe_faults(recipe: Recipe) -> Iterator[str]:
    if not RECIPE_NAME.fullmatch(recipe.name):
        yield f"expected a name of up to 64 of a-z 0-9 . _ -, found {recipe.name!r}"
    scopes = {name.removeprefix("train/") for name in recipe.programs if name.startswith("train/")}
    if "predict" not in recipe.programs or not scopes or not all(recipe.programs.values()):
        yield f"programs: found {sorted(recipe.programs)}; expected predict and at least one train/<scope>, none empty"
    allowed = {"predict", *(f"train/{each}" for each in scopes if is_scope(each))}
    unknown = set(recipe.programs) - allowed
    if unknown:
        yield f"programs: unknown {sorted(unknown)}"
    if set(recipe.state) != scopes:
        yield f"state: found scopes {sorted(recipe.state)}; the train programs are of {sorted(scopes)}"
    yield from _tensor_faults("parameters", recipe.parameters)
    for scope, tensors in recipe.state.items():
        yield from _tensor_faults(f"state {scope}", tensors)
    yield from _schedule_faults(recipe.schedule)
    strengths = [float(value) for value in vars(recipe.augmentation).values()]
    if not all(0 <= value < math.inf for value in strengths):
        yield "augmentation: strengths must be finite and not negative"
    yield from _initial_faults(recipe)


def _tensor_faults(place: str, tensors: tuple[Tensor, ...]) -> Iterator[str]:
    names = [tensor.name for tensor in tensors]
    if len(set(names)) != len(names):
        yield f"{place}: a name is given twice"
    # The rank first: the product of a hundred thousand lengths takes minutes.
    if any(len(tensor.shape) > MAX_RANK for tensor in tensors):
        yield f"{place}: a tensor of more than {MAX_RANK} axes"
        return
    if sum(tensor.size for tensor in tensors) > MAX_PARAMETERS:
        yield f"{place}: more than {MAX_PARAMETERS} values"
    for tensor in tensors:
        if tensor.size < 1 or min(tensor.shape, default=1) < 1:
            yield f"{place} {tensor.name}: shape {tensor.shape} is empty"
        law, value = tensor.law
        if law not in LAWS or not math.isfinite(value) or (law != "constant" and value < 0):
            yield f"{place} {tensor.name}: law {tensor.law}; expected one of {', '.join(LAWS)} and a number"


def _schedule_faults(schedule: Schedule) -> Iterator[str]:
    if schedule.steps < 1 or schedule.batch < 1 or schedule.warmup < 0:
        yield "schedule: steps and batch must be at least 1, warmup at least 0"
    if schedule.kind not in SCHEDULES:
        yield f"schedule kind: found {schedule.kind!r}; expected {' or '.join(SCHEDULES)}"
    if schedule.kind == "listed" and len(schedule.rates) != schedule.steps:
        yield f"schedule rates: found {len(schedule.rates)}; expected one for each of {schedule.steps} steps"
    if min(schedule.milestones, default=0) < 0:
        yield "schedule milestones: must not be negative"
    if not all(math.isfinite(rate) for rate in (schedule.rate, schedule.factor, *schedule.rates)):
        yield "schedule: a learning rate is not finite"


def _initial_faults(recipe: Recipe) -> Iterator[str]:
    seed, weights = recipe.initial.seed, recipe.initial.weights
    if seed is not None and not 0 <= seed <= MAX_SEED:
        yield f"initial seed: found {seed}; expected 0 to 2**64 - 1"
    if not weights:
        return
    shapes = {parameter.name: parameter.shape for parameter in recipe.parameters}
    if {name: each.shape for name, each in weights.items()} != shapes:
        yield "weights: names or shapes differ from the parameters'"
    if not all(np.isfinite(each).all() for each in weights.values()):
        yield "weights: NaN or infinity"
