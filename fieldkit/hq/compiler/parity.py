"""Proof that a recipe's programs do what torch does, made before the recipe may be packed.

The programs run through the field's own door to onnxruntime; torch runs the same loss with autograd and torch.optim.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import AVERAGE, UNLABELLED, Initial, Recipe
from fieldkit.bundle.weights import draw, initial_weights, uniforms
from fieldkit.errors import ProgramError
from fieldkit.field.engine.augmentation import in_order
from fieldkit.field.engine.session import Stepper, open_session, run_session, runtime_version
from fieldkit.field.models.exporting import complete_model
from fieldkit.field.programs.interface import RANDOM
from fieldkit.hq.compiler.programs import Prediction, TrainingLoss, example_batch
from fieldkit.hq.compiler.randomness import replayed
from fieldkit.hq.compiler.scopes import set_modes, trained_parameters
from fieldkit.hq.compiler.updates import TorchUpdate, Update
from fieldkit.hq.models.laws import load_weights

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

STEP_LIMIT = 1e-4
# Float32 rounding grows from one batch normalisation to the next, in torch as here.
DEEP_STEP_LIMIT = 1e-3
DEEP = 20
LOSS_LIMIT = 1e-2
PROBABILITY_LIMIT = 1e-3
LOSS_STEPS = 50
# A long training of large batches would take most of the time of compiling, so it takes smaller ones, in programs of
# their own; those of the recipe's own batch train for some steps.
LONG_BATCH = 25
WHOLE_STEPS = 10
# A training that is chaotic may drift so many times as far as torch drifts from itself after a nudge of that size.
CHAOS = 3.0
NUDGE = 2.0**-22
# The step that is compared comes after two of torch's own, so that the optimiser's states are not zero.
WARM_STEPS = 2
# A value at the kink of a ReLU may be rounded to the other side and move a gradient by more than the limit; a wrong
# rule is wrong for every batch.  The fewer samples count, the rarer such values are.
SCORED = 8
ATTEMPTS = 5
# A gradient below this part of the typical one is rounding noise: that of a bias right before a normalisation.
VANISHING = 1e-4
AVERAGED = f"state.{AVERAGE}"
FLOOR = 1e-2
ROUNDING = 2.0**-24
SEED = 1


@dataclass(frozen=True)
class Parity:
    """How far a recipe's programs are from torch, in float32.

    step_error: largest relative error of one train step among all new parameters (their change) and new states, and
    step_tensor, where it is.  loss_error: largest relative difference of the loss over ``steps`` steps, of batches of
    at most ``LONG_BATCH``, and over ``WHOLE_STEPS`` of the recipe's own if that is larger.
    probability_error: largest absolute difference of ``predict``.
    """

    step_error: float
    step_tensor: str
    loss_error: float
    steps: int
    probability_error: float
    torch: str
    onnxruntime: str

    def to_json(self) -> dict[str, Any]:
        """For the card; two digits say enough, and more would differ between machines."""
        rounded = {name: float(f"{value:.1e}") for name, value in vars(self).items() if isinstance(value, float)}
        return vars(self) | rounded


@dataclass(frozen=True)
class Subject:
    """A recipe and the torch objects that it was compiled from."""

    recipe: Recipe
    loss: TrainingLoss
    update: Update

    @property
    def where(self) -> str:
        return f"recipe {self.recipe.name}"

    @property
    def step_limit(self) -> float:
        """The largest relative error of a tensor's change in one step."""
        layers = self.loss.model.modules()
        deep = sum(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in layers) > DEEP
        return DEEP_STEP_LIMIT if deep else STEP_LIMIT


def check_parity(subject: Subject, small: Subject | None = None) -> Parity:
    """Measure a recipe against torch, each of its scopes.  Raises ProgramError where it is out of its limits.

    small: the same with a smaller batch, whose long training stands for the recipe's own.
    """
    subject = replace(subject, loss=copy.deepcopy(subject.loss))
    small = small and replace(small, loss=copy.deepcopy(small.loss))
    weights = initial_weights(subject.recipe.parameters, Initial(), SEED)
    worst, loss_error = ("", 0.0), 0.0
    # Asked before the trials freeze anything.
    trained = {scope: trained_parameters(subject.loss.model, scope) for scope in subject.recipe.state}
    for scope in subject.recipe.state:
        trial = _Trial(subject, scope, trained[scope], weights)
        tensor, step_error = trial.step_error()
        place = f"{subject.where}, train/{scope}"
        _refuse_above(subject.step_limit, step_error, f"{place}, {tensor}", "one train step differs from torch")
        worst = max(worst, (f"train/{scope} {tensor}", step_error), key=_error)
        loss_error = max(loss_error, _drift(trial, LOSS_STEPS if small is None else WHOLE_STEPS))
        if small is not None:
            loss_error = max(loss_error, _drift(_Trial(small, scope, trained[scope], weights), LOSS_STEPS))
    probability_error = _probability_error(subject, weights)
    _refuse_above(PROBABILITY_LIMIT, probability_error, f"{subject.where}, predict", "predictions differ from torch")
    versions = (torch.__version__.split("+")[0], runtime_version())
    return Parity(worst[1], worst[0], loss_error, LOSS_STEPS, probability_error, *versions)


def _drift(trial: _Trial, steps: int) -> float:
    """The largest relative difference of the loss over ``steps`` steps.  Raises ProgramError where it is too large."""
    drift = trial.loss_error(steps)
    if not drift <= LOSS_LIMIT:
        # Some trainings amplify rounding until nothing agrees for long, torch with itself included.
        limit = max(LOSS_LIMIT, CHAOS * trial.chaos(steps))
        place = f"{trial.subject.where}, train/{trial.scope}"
        _refuse_above(limit, drift, place, f"the loss over {steps} steps differs from torch")
    return drift


def _refuse_above(limit: float, error: float, where: str, message: str) -> None:
    # Written so that NaN is refused too.
    if not error <= limit:
        raise ProgramError(
            message,
            where=where,
            found=f"relative error {error:.2g}",
            expected=f"at most {limit:g}",
            remedy="the recipe cannot be packed; choose other layers, or report this as a bug of fieldkit",
        )


class _Reference:
    """Torch's own training of what a scope trains."""

    def __init__(self, subject: Subject, scope: str, trained: frozenset[str], weights: Tensors) -> None:
        self.loss = subject.loss.of(scope)
        model = self.loss.model
        load_weights(model, weights)
        set_modes(model, trained)
        self.everything = dict(model.named_parameters()) | dict(model.named_buffers())
        for name, each in model.named_parameters():
            each.grad = None
            each.requires_grad_(name in trained)
        self.names = [each.name for each in subject.recipe.parameters]
        averaged = [each.name.removeprefix(f"{AVERAGE}.") for each in subject.recipe.state[scope]]
        buffers = [name for name, _ in model.named_buffers() if name in averaged]
        self.update = TorchUpdate(subject.update, model, trained, buffers)

    def step(self, batch: Tensors) -> float:
        for each in self.update.parameters.values():
            each.grad = None
        feeds = {name: torch.from_numpy(each) for name, each in batch.items() if not name.startswith(RANDOM)}
        if not self.loss.augmentation.width:
            feeds.pop("aug", None)
        with replayed(in_order(batch)):
            loss: torch.Tensor = self.loss(**feeds)
        loss.backward()  # type: ignore[no-untyped-call]
        self.update.step()
        return float(loss.detach())

    def tensors(self) -> dict[str, Array]:
        """Copies of the model's tensors and the states, by the names of the train program."""
        found = {f"param.{name}": self.everything[name].detach().numpy().copy() for name in self.names}
        return found | {f"state.{name}": each.numpy().copy() for name, each in self.update.states().items()}

    def vanishing(self) -> set[str]:
        """The parameters whose last gradient is rounding noise."""
        slopes = {name: each.grad for name, each in self.update.parameters.items()}
        sizes = {name: _rms(each.numpy()) for name, each in slopes.items() if each is not None}
        typical = math.sqrt(sum(size**2 for size in sizes.values()) / len(sizes))
        return {name for name, size in sizes.items() if size <= VANISHING * typical}


def _batches(subject: Subject, randoms: dict[str, tuple[int, ...]]) -> Iterator[dict[str, Array]]:
    """Random batches in native counts; the same at every call.  randoms: shapes of the inputs ``random.<i>``."""
    recipe = subject.recipe
    example = example_batch(subject.loss.sizes, recipe.augmentation)
    shapes = {name: tuple(each.shape) for name, each in example.items()} | randoms
    stream = 0
    while True:
        batch = {}
        for name, shape in shapes.items():
            batch[name] = uniforms(SEED, stream, math.prod(shape)).reshape(shape).astype(np.float32)
            stream += 1
        batch["images"] = _counts(batch["images"], subject.loss.radiometry)
        batch["targets"] = batch["targets"] ** 4 + np.float32(1e-3)
        batch["targets"] /= batch["targets"].sum(axis=1, keepdims=True)
        batch["class_mask"] = np.ones_like(batch["class_mask"])
        yield batch


def _counts(uniform: Array, radiometry: Radiometry) -> Array:
    """Whole counts of a sensor, spread as its statistics say."""
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (radiometry.mean, radiometry.std))
    spread = np.rint(mean + std * (uniform - np.float32(0.5)) * np.float32(math.sqrt(12)))
    return np.clip(spread, 0, np.iinfo(radiometry.dtype).max).astype(np.float32)


def _with_gaps(batch: dict[str, Array]) -> dict[str, Array]:
    """The batch with few samples in, its first counted double and, of three classes or more, one class off."""
    weights, mask, targets = (batch[name].copy() for name in ("weights", "class_mask", "targets"))
    if len(weights) > 1:
        weights[0], weights[-1] = 2.0, 0.0
        weights[SCORED:] = 0.0
    if len(mask) > 2:
        mask[-1] = 0.0
        targets *= mask
        sums = targets.sum(axis=1, keepdims=True)
        targets /= np.where(sums > 0, sums, 1.0)
    return batch | {"weights": weights, "class_mask": mask, "targets": targets}


def _feed(stepper: Stepper, batch: Tensors, rate: float, step: int) -> float:
    """Run one step of the program on a batch."""
    scalars = {"lr": np.float32(rate), "step": np.float32(step)}
    for name, buffer in stepper.feeds.items():
        buffer[...] = scalars[name] if name in scalars else batch[name]
    return stepper.step()


class _Trial:
    """One scope's program beside torch, from the same weights on the same batches."""

    def __init__(self, subject: Subject, scope: str, trained: frozenset[str], weights: Tensors) -> None:
        self.subject, self.scope, self.trained, self.weights = subject, scope, trained, weights
        self.stepper = Stepper(subject.recipe, scope)
        self.rate = subject.update.optimiser.trial_rate
        self.randoms = {name: each.shape for name, each in self.stepper.feeds.items() if name.startswith(RANDOM)}

    def step_error(self) -> tuple[str, float]:
        """The tensor that one step gets most wrong, and its relative error; of a few steps, the first within limits."""
        reference, batches = self._start()
        for _ in range(WARM_STEPS):
            reference.step(next(batches))
        worst = ("", math.inf)
        for attempt in range(ATTEMPTS):
            worst = min(worst, self._compare(reference, next(batches), WARM_STEPS + attempt), key=_error)
            if worst[1] <= self.subject.step_limit:
                break
        return worst

    def loss_error(self, steps: int) -> float:
        """The largest relative difference of the loss while both train."""
        reference, batches = self._start()
        states = {f"state.{each.name}": draw(each, SEED, 0) for each in self.subject.recipe.state[self.scope]}
        self.stepper.load({f"param.{name}": each for name, each in self.weights.items()} | states)
        errors = []
        for step in range(steps):
            batch = next(batches)
            expected = reference.step(batch)
            errors.append(abs(_feed(self.stepper, batch, self.rate, step) / expected - 1.0))
        return float(np.max(errors))

    def chaos(self, steps: int) -> float:
        """How far torch's loss drifts from that of its own twin, whose first weights differ by rounding alone."""
        reference, batches = self._start()
        # One after the other, since both train the same module.
        losses = [reference.step(next(batches)) for _ in range(steps)]
        nudged = {name: each * np.float32(1.0 + NUDGE) for name, each in self.weights.items()}
        twin = _Reference(self.subject, self.scope, self.trained, nudged)
        batches = self._batches()
        return float(np.max([abs(twin.step(next(batches)) / loss - 1.0) for loss in losses]))

    def _start(self) -> tuple[_Reference, Iterator[dict[str, Array]]]:
        reference = _Reference(self.subject, self.scope, self.trained, self.weights)
        return reference, self._batches()

    def _batches(self) -> Iterator[dict[str, Array]]:
        """The batches of a training; without labels on every other row where the scope trains on such."""
        for batch in _batches(self.subject, self.randoms):
            if self.scope == UNLABELLED:
                batch["targets"][::2] = 0.0
            yield batch

    def _compare(self, reference: _Reference, batch: dict[str, Array], step: int) -> tuple[str, float]:
        """One step of both from the same point on the same batch."""
        before, batch = reference.tensors(), _with_gaps(batch)
        self.stepper.load(before)
        _feed(self.stepper, batch, self.rate, step)
        reference.step(batch)
        after = reference.tensors()
        moved = {name: each - before[name] for name, each in self.stepper.tensors().items()}
        expected = {name: after[name] - before[name] for name in moved}
        return _worst(moved, expected, reference.vanishing(), _floors(before))


def _floors(tensors: Tensors) -> dict[str, float]:
    """The least size that a change is measured against, where it may be below the rounding of what it comes from.

    A step may be smaller than the last bits of the parameter that it moves, whose optimiser state then tells all; an
    average moves by less than its own rounding; the mean of what a normalisation has centred before is noise.
    """
    floors = {name: ROUNDING * _rms(each) / STEP_LIMIT for name, each in tensors.items() if _kind(name) == "param"}
    floors |= {name: FLOOR * _rms(each) for name, each in tensors.items() if _kind(name) == AVERAGED}
    for name, each in tensors.items():
        path, _, last = name.rpartition(".")
        if last == "running_var":
            floors[f"{path}.running_mean"] = FLOOR * math.sqrt(float(np.mean(np.abs(each))))
    return floors


def _error(named: tuple[str, float]) -> float:
    """For sorting, with NaN above everything."""
    return math.inf if math.isnan(named[1]) else named[1]


def _worst(moved: Tensors, expected: Tensors, vanishing: set[str], floors: Mapping[str, float]) -> tuple[str, float]:
    """The largest relative error among tensors, each measured against its own expected change.

    Where the gradient vanishes, states are measured against the typical change of their kind; the parameter is left
    out, because an optimiser that divides noise by noise moves it anywhere, and nowhere that matters.
    """
    typical = {
        kind: max(_rms(each) for name, each in expected.items() if _kind(name) == kind) for kind in _kinds(expected)
    }
    errors = {}
    for name, each in expected.items():
        owner = name.removeprefix(_kind(name) + ".")
        if owner not in vanishing:
            errors[name] = _rms(moved[name] - each) / max(_rms(each), floors.get(name, 0.0), 1e-30)
        elif _kind(name) not in ("param", AVERAGED):
            errors[name] = _rms(moved[name] - each) / max(typical[_kind(name)], floors.get(name, 0.0), 1e-30)
    return max(errors.items(), key=_error)


def _kinds(tensors: Tensors) -> set[str]:
    return {_kind(name) for name in tensors}


def _kind(name: str) -> str:
    """ "param", or "state.momentum" and its like."""
    parts = name.split(".")
    return parts[0] if parts[0] == "param" else ".".join(parts[:2])


def _rms(values: Array) -> float:
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def _probability_error(subject: Subject, weights: Tensors) -> float:
    """The largest difference of ``predict`` on one batch."""
    load_weights(subject.loss.model, weights)
    sizes = subject.loss.sizes
    used = sizes.class_count - sizes.spare if sizes.spare else None
    model: nn.Module = Prediction(subject.loss.model, subject.loss.radiometry, used).eval()
    images = next(_batches(subject, {}))["images"].astype(subject.loss.radiometry.dtype)
    program = complete_model(subject.recipe.programs["predict"], weights, {}, used)
    session = open_session(program, f"{subject.where}, program predict")
    (found,) = run_session(session, {"images": images}, subject.where)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    return float(np.max(np.abs(found - expected)))
