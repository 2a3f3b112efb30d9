"""From a data set to a bundle: the whole story."""

from __future__ import annotations

import hashlib
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zopfli.zlib

from fieldkit.bundle import save_bundle
from fieldkit.bundle.atomic import check_writable
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.enlarging import enlarge
from fieldkit.bundle.manifest import Expectation, Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import SCHEDULES, Initial, Recipe, Schedule, is_scope
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.seal import MAX_NAME, name_fits
from fieldkit.errors import Diverged, ResourceError, UsageError
from fieldkit.field.datasets import Dataset, check_enough
from fieldkit.field.training import MAX_SEED
from fieldkit.hq.compiler import Compiled, Data, Optimiser, Sgd, compile_recipe
from fieldkit.hq.compiler.updates import Regularisation, Update
from fieldkit.hq.distil import check_settings, method, start
from fieldkit.hq.distil.driver import Budget, Checkpoint, Outcome, Report, drive
from fieldkit.hq.distil.problem import Problem, Snapshot
from fieldkit.hq.evidence.accuracy import FieldScores, expectation
from fieldkit.hq.evidence.reference import Reference
from fieldkit.hq.models import build_model, check_options, recipe_name
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.sources import load
from fieldkit.hq.splitting import Splits, held_out_size, split

# Seeds of the trainings that select are not those of the trainings that are reported.
SELECTION_SEEDS = (1001, 1002)
REPORT_SEEDS = (0, 1, 2, 3, 4)
# How far, in accuracy 0-1, the field engine's score may be from torch's before the build says so.
AGREEMENT = 0.005


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
    method, settings: the distillation and its own settings.  init: "fixed" or "random".
    recipes: the first is the one that the set is distilled for.  steps, batch: how long a device trains, and on how
    many images at a time; None takes the method's own.
    schedule: what the recipes' schedule has in place of the method's own, by the names of ``Schedule``.
    optimiser, regularisation: inside the train programs.  scopes: of the train programs that each recipe gets.
    budget: how long to distil; None takes the method's own iterations.
    probe: real images that the bundle carries.  levels: of a stored pixel; None takes all that its dtype has.
    seed: of all randomness.  name: the bundle's; None takes the file's.
    threads: of torch and onnxruntime; None takes every processor.
    """

    data: str
    ipc: int = 10
    formation: int = 1
    method: str = "distribution"
    settings: Mapping[str, Any] = field(default_factory=dict)
    init: str = "random"
    recipes: tuple[RecipeSpec, ...] = (RecipeSpec("convnet"),)
    steps: int | None = None
    batch: int | None = None
    schedule: Mapping[str, Any] = field(default_factory=dict)
    optimiser: Optimiser = field(default_factory=Sgd)
    regularisation: Regularisation = field(default_factory=Regularisation)
    scopes: tuple[str, ...] = ("full",)
    budget: Budget | None = None
    probe: int = 0
    levels: int | None = None
    seed: int = 0
    name: str | None = None
    threads: int | None = None

    @property
    def per_class(self) -> int:
        """Distilled images of each class, whatever size they are stored at."""
        return self.ipc * self.formation**2


@dataclass(frozen=True)
class Built:
    """The bundle as written, and how its distillation ended."""

    bundle: Bundle
    outcome: Outcome


@contextmanager
def _memory_named() -> Iterator[None]:
    """Turn torch's complaints about memory, which are of no class of their own on a processor, into ours."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise ResourceError("not enough memory", remedy="choose a smaller --recipe, --batch or --ipc") from error


@_memory_named()
def build(
    spec: Spec,
    output: Path,
    *,
    resume: bool = False,
    report: Report = lambda status: None,
    note: Callable[[str], None] = lambda text: None,
) -> Built:
    """Distil, compile, measure and pack.

    report: called after each iteration; note: with a line on what goes on.  Ctrl-C ends the distillation early; the
    best set so far is packed and ``built.outcome.interrupted`` says so.

    Raises UsageError for options that do not fit, DataError for data that cannot be distilled, ProgramError for a
    recipe that cannot be compiled, ResourceError if disk or memory are full.
    """
    _check(spec, output)
    check_writable(output)
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    dataset = load(spec.data)
    _check_levels(spec.levels, dataset.train.images.dtype)
    _check_formation(spec.formation, dataset.train.images.shape[2:])
    class_count = len(dataset.classes)
    held_out = held_out_size(len(dataset.train), class_count)
    check_enough(dataset, spec.per_class, probe=spec.probe, held_out=held_out)
    splits = split(dataset.train, class_count, spec.probe, spec.seed)
    note(f"{dataset.name}: {len(splits.real):,} images to distil, {len(splits.held_out):,} held out to select by")
    data = describe(dataset, splits)
    recipes = compile_all(spec, data)
    problem = pose(spec, data, splits, next(iter(recipes.values())).recipe)
    scores = FieldScores(spec.threads)
    packing = Packing(
        manifest=manifest(spec, dataset, data, name=_name(spec, output), recipes=tuple(recipes)),
        recipes={name: each.recipe for name, each in recipes.items()},
        probe=splits.probe,
        levels=spec.levels,
    )
    primary = next(iter(recipes))
    seeds = SELECTION_SEEDS[:1] if spec.init == "fixed" else SELECTION_SEEDS

    def judge(snapshot: Snapshot) -> float:
        found = scores.accuracies(packing.pack(snapshot), primary, seeds, [splits.held_out])[0]
        return float(np.mean(found))

    distillation = start(spec.method, problem, spec.settings)
    checkpoint = Checkpoint(checkpoint_file(output), fingerprint(spec, dataset), note)
    if not resume and checkpoint_file(output).exists():
        note(f"starting anew: {checkpoint_file(output)} of a stopped job is replaced; --resume would go on from it")
    note(f"distilling with method {spec.method}")
    outcome = drive(distillation, budget(spec), judge, checkpoint, resume=resume, report=report)
    note("measuring the best set as a device will train it")
    bundle = measured(packing.pack(outcome.best), spec, splits, scores)
    reference = Reference(
        bundle.recipes[primary], problem.module, data.radiometry, Update(spec.optimiser, spec.regularisation)
    )
    unrounded = enlarge(outcome.best.images, *data.input_shape[1:])
    scored = reference.accuracies(Samples(unrounded, outcome.best.labels), REPORT_SEEDS, splits.held_out)
    card = evidence(recipes, outcome, bundle.manifest.expectations[primary]["held-out"], scored)
    note_disagreement(card["held_out"], note)
    written = save_bundle(replace(bundle, card=card), output, zopfli.zlib.compress)
    if not outcome.interrupted:
        checkpoint.remove()
    return Built(written, outcome)


def _check(spec: Spec, output: Path) -> None:
    """Refuse what no data set can make right, before it is read."""
    name = _name(spec, output)
    if not name_fits(name):
        expected = f"1 to {MAX_NAME} printable characters"
        raise UsageError("not a name for a bundle", where="name", found=repr(name), expected=expected)
    if os.path.exists(output) and os.path.exists(spec.data) and os.path.samefile(output, spec.data):
        raise UsageError("the bundle would replace the data it is made from", where=output, remedy="name another file")
    if spec.budget is not None and not math.isfinite(spec.budget.seconds or 0.0):
        raise UsageError("not a length of time", where="minutes", found=spec.budget.seconds, expected="a finite number")
    if spec.seed > MAX_SEED:
        raise UsageError("a seed out of range", where="seed", found=spec.seed, expected=f"0 to {MAX_SEED}")
    least_of = {"ipc": 1, "formation": 1, "probe": 0, "seed": 0}
    for where, least in least_of.items():
        value = getattr(spec, where)
        if value < least:
            raise UsageError("too small", where=where, found=value, expected=f"at least {least}")
    if spec.init not in ("fixed", "random"):
        raise UsageError("unknown kind of initial weights", where="init", found=spec.init, expected="fixed or random")
    if not spec.recipes:
        raise UsageError("a bundle needs a recipe", where="recipes", expected="at least one")
    check_settings(spec.method, spec.settings)
    _check_training(spec)
    for each in spec.recipes:
        check_options(each.architecture, each.options)


def _check_training(spec: Spec) -> None:
    """How a device trains must be something that the compiler writes and, where it goes along, the method follows."""
    if "full" not in spec.scopes:
        raise UsageError("the set is distilled for whole trainings", where="scopes", expected="full among them")
    for scope in spec.scopes:
        if not is_scope(scope):
            expected = "full, head, norm-bias, or last-K with K from 1 to 99"
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
    plain = isinstance(spec.optimiser, Sgd) and not (spec.optimiser.nesterov or spec.optimiser.decoupled)
    if method(spec.method).follows and not (plain and spec.regularisation == Regularisation()):
        raise UsageError(
            "the method follows a device's training through plain SGD only",
            where=f"method {spec.method}",
            found=f"{spec.optimiser}, {spec.regularisation}",
            expected="sgd with momentum and weight decay, and no regularisation",
            remedy="choose method distribution, or leave the optimiser as it is",
        )


def _fits_schedule(name: str, value: Any) -> bool:
    """Whether ``value`` is of the kind that this field of a schedule takes, and not negative."""
    values = value if name == "milestones" and isinstance(value, tuple) else (value,)
    kinds = int if name in ("warmup", "milestones") else (int, float)
    return all(isinstance(each, kinds) and not isinstance(each, bool) and 0 <= each < math.inf for each in values)


def _name(spec: Spec, output: Path) -> str:
    return output.stem if spec.name is None else spec.name


def _check_levels(levels: int | None, dtype: np.dtype[Any]) -> None:
    most = int(np.iinfo(dtype).max) + 1
    if levels is not None and not 2 <= levels <= most:
        raise UsageError("levels do not fit", where="levels", found=levels, expected=f"2 to {most} of {dtype} pixels")


def _check_formation(formation: int, size: tuple[int, int]) -> None:
    if formation > min(size):
        found = f"{formation} for images of {size[0]} x {size[1]} pixels"
        raise UsageError("images too small", where="formation", found=found, expected=f"at most {min(size)}")


def checkpoint_file(output: Path) -> Path:
    """Where a build of ``output`` keeps what --resume needs."""
    return output.with_name(output.name + ".resume")


def budget(spec: Spec) -> Budget:
    """The spec's budget, or the method's own number of iterations."""
    return spec.budget or Budget(iterations=method(spec.method).iterations)


def describe(dataset: Dataset, splits: Splits) -> Data:
    """What recipes must know of the data; the statistics are those of the images that are distilled."""
    channels, height, width = dataset.train.images.shape[1:]
    radiometry = Radiometry.measure(splits.real.images, dataset.bands)
    return Data((channels, height, width), len(dataset.classes), radiometry)


def compile_all(spec: Spec, data: Data) -> dict[str, Compiled]:
    """Every recipe of the spec by its name in the bundle; the parity of each is proven."""
    own = method(spec.method).training(spec.per_class * data.class_count)
    schedule = own.schedule if spec.steps is None else own.schedule.with_steps(spec.steps)
    schedule = replace(schedule, **spec.schedule)
    if spec.batch is not None:
        schedule = replace(schedule, batch=spec.batch)
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
            augmentation=own.augmentation,
            regularisation=spec.regularisation,
            scopes=spec.scopes,
        )
        initial = Initial(seed=spec.seed if spec.init == "fixed" else None)
        recipe = replace(made.recipe, name=name).with_training(schedule, initial)
        compiled[name] = replace(made, recipe=recipe)
    return compiled


def pose(spec: Spec, data: Data, splits: Splits, recipe: Recipe) -> Problem:
    """The problem that the method is given: real images, and the recipe that the set is distilled for."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    first = spec.recipes[0]
    module = build_model(first.architecture, first.options, data.input_shape, data.class_count)
    # A method sees networks that drop nothing out: what it compares would be noise, and none that a seed repeats.
    for each in module.modules():
        each.train(any(True for _ in each.parameters()))
    plain = spec.optimiser if isinstance(spec.optimiser, Sgd) else Sgd()
    return Problem(
        real=splits.real,
        module=module.to(device),
        normalise=Normalise(data.radiometry).to(device),
        ipc=spec.ipc,
        formation=spec.formation,
        class_count=data.class_count,
        schedule=recipe.schedule,
        momentum=plain.momentum,
        weight_decay=plain.weight_decay,
        initial=recipe.initial,
        augmentation=recipe.augmentation,
        levels=spec.levels or np.iinfo(data.radiometry.dtype).max + 1,
        seed=spec.seed,
        device=device,
    )


@dataclass(frozen=True)
class Packing:
    """Makes a bundle of any snapshot of one build."""

    manifest: Manifest
    recipes: Mapping[str, Recipe]
    probe: Samples | None
    levels: int | None

    def pack(self, snapshot: Snapshot) -> Bundle:
        """The bundle of this distilled set; the learnt schedule, if any, is the first recipe's.

        Raises Diverged for a set that holds no numbers.
        """
        if not (np.isfinite(snapshot.images).all() and np.isfinite(snapshot.labels).all()):
            raise Diverged("the distillation diverged", where="distilled set", found="NaN or infinity")
        recipes = dict(self.recipes)
        if snapshot.schedule is not None:
            first = next(iter(recipes))
            recipes[first] = recipes[first].with_training(snapshot.schedule, recipes[first].initial)
        codes = Pixels.encode(snapshot.images, self.manifest.radiometry.dtype, self.levels)
        return Bundle(self.manifest, codes, snapshot.labels.astype(np.float16), recipes, self.probe)


def manifest(spec: Spec, dataset: Dataset, data: Data, *, name: str, recipes: tuple[str, ...]) -> Manifest:
    """The bundle's description, before anything was measured."""
    return Manifest(
        name=name,
        task="classification",
        classes=dataset.classes,
        input_shape=data.input_shape,
        radiometry=data.radiometry,
        method=described_method(spec),
        recipes=recipes,
        provenance=provenance(spec, dataset),
        licence=dataset.licence,
    )


def described_method(spec: Spec) -> dict[str, Any]:
    """How the set was distilled, as the manifest says it; whole images go without saying."""
    formation = {"formation": spec.formation} if spec.formation > 1 else {}
    return {"name": spec.method, "ipc": spec.ipc, **formation, "settings": dict(spec.settings)}


def provenance(spec: Spec, dataset: Dataset) -> dict[str, Any]:
    """Where a bundle comes from: no paths, no dates, so that the same build gives the same bytes."""
    libraries = ("fieldkit", "numpy", "torch", "onnx", "onnxruntime", "h5py")
    return {
        "data": {"name": dataset.name, "source": dataset.source, "sha256": digest(dataset)},
        "seed": spec.seed,
        "init": spec.init,
        "python": platform.python_version(),
        "libraries": {name: version(name).partition("+")[0] for name in libraries},
    }


def digest(dataset: Dataset) -> str:
    """SHA-256, hex, of the training images and labels."""
    found = hashlib.sha256()
    for array in (dataset.train.images, dataset.train.targets):
        found.update(str((array.shape, array.dtype.str)).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def fingerprint(spec: Spec, dataset: Dataset) -> dict[str, Any]:
    """What two runs must share for one to resume the other: all of the spec but where it reads and for how long."""
    document = asdict(spec)
    for name in ("data", "threads", "budget", "name"):
        del document[name]
    plain = {name: value if isinstance(value, int | str | None) else repr(value) for name, value in document.items()}
    return plain | {"data": digest(dataset)}


def measured(bundle: Bundle, spec: Spec, splits: Splits, scores: FieldScores) -> Bundle:
    """The bundle with what HQ expects of each recipe, on the held-out split and on the probe."""
    sets = {"held-out": splits.held_out} | ({"probe": splits.probe} if splits.probe is not None else {})
    expectations: dict[str, dict[str, Expectation]] = {}
    for name in bundle.recipes:
        found = scores.accuracies(bundle, name, REPORT_SEEDS, list(sets.values()))
        expectations[name] = {
            split_name: expectation(accuracies, len(samples))
            for (split_name, samples), accuracies in zip(sets.items(), found, strict=True)
        }
    return replace(bundle, manifest=replace(bundle.manifest, expectations=expectations))


def note_disagreement(held_out: Mapping[str, float], note: Callable[[str], None]) -> None:
    """Say so where rounding and the device's arithmetic cost or gain more than they should."""
    field_engine, unrounded = held_out["field_engine"], held_out["torch_unrounded"]
    if abs(field_engine - unrounded) > AGREEMENT:
        note(
            f"held-out accuracy is {100 * field_engine:.1f} % through the field engine, {100 * unrounded:.1f} % in "
            f"torch without rounding: more than {100 * AGREEMENT:.1f} points apart"
        )


def evidence(
    recipes: Mapping[str, Compiled], outcome: Outcome, field_engine: Expectation, reference: Sequence[float]
) -> dict[str, Any]:
    """The card: parity of the programs, the course of the distillation, torch's scores beside the field engine's."""
    return {
        "parity": {name: each.parity.to_json() for name, each in recipes.items()},
        "distillation": {
            "iterations": outcome.iterations,
            "held_out_curve": [[iteration, score] for iteration, score in outcome.curve],
        },
        "held_out": {"field_engine": field_engine.mean, "torch_unrounded": float(np.mean(reference))},
    }
