"""Proof that a recipe's programs do what torch does, made before the recipe may be packed.

The programs run through the field's own door to onnxruntime; torch runs the same loss with autograd and torch.optim.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Initial, Recipe
from fieldkit.bundle.weights import draw, initial_weights, uniforms
from fieldkit.errors import ProgramError
from fieldkit.field.exporting import complete_model
from fieldkit.field.session import Stepper, open_session, run_session, runtime_version
from fieldkit.hq.compiler.optimisers import Optimiser
from fieldkit.hq.compiler.programs import Prediction, TrainingLoss, example_batch
from fieldkit.hq.models.laws import load_weights

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]

STEP_LIMIT = 1e-3
LOSS_LIMIT = 1e-2
PROBABILITY_LIMIT = 1e-3
LOSS_STEPS = 20
# The step that is compared comes after two of torch's own, so that the optimiser's states are not zero.
WARM_STEPS = 2
# In one batch in thirty, a value at the kink of a ReLU is rounded to the other side and moves a gradient by about the
# limit.  A wrong rule is wrong for every batch.
ATTEMPTS = 3
# A gradient below this part of the typical one is rounding noise: that of a bias right before a normalisation.
VANISHING = 1e-4
SEED = 1


@dataclass(frozen=True)
class Parity:
    """How far a recipe's programs are from torch, in float32.

    step_error: largest relative error of one train step among all new parameters (their change) and new states, and
    step_tensor, where it is.  loss_error: largest relative difference of the loss over ``steps`` steps.
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
    optimiser: Optimiser
    radiometry: Radiometry

    @property
    def where(self) -> str:
        return f"recipe {self.recipe.name}"


def check_parity(subject: Subject) -> Parity:
    """Measure a recipe against torch.  Raises ProgramError where it is out of its limits."""
    subject = Subject(subject.recipe, copy.deepcopy(subject.loss), subject.optimiser, subject.radiometry)
    weights = initial_weights(subject.recipe.parameters, Initial(), SEED)
    tensor, step_error = _step_error(subject, weights)
    _refuse_above(STEP_LIMIT, step_error, f"{subject.where}, {tensor}", "one train step differs from torch")
    loss_error = _loss_error(subject, weights)
    _refuse_above(LOSS_LIMIT, loss_error, subject.where, f"the loss over {LOSS_STEPS} steps differs from torch")
    probability_error = _probability_error(subject, weights)
    _refuse_above(PROBABILITY_LIMIT, probability_error, f"{subject.where}, predict", "predictions differ from torch")
    versions = (torch.__version__.split("+")[0], runtime_version())
    return Parity(step_error, tensor, loss_error, LOSS_STEPS, probability_error, *versions)


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
    """Torch's own training of the subject."""

    def __init__(self, subject: Subject, weights: Tensors) -> None:
        self.loss = subject.loss.train()
        load_weights(self.loss.model, weights)
        self.parameters = dict(self.loss.model.named_parameters())
        self.settings = subject.optimiser
        self.optimiser = self.settings.reference(self.parameters.values(), self.settings.trial_rate)

    def step(self, batch: Tensors) -> float:
        self.optimiser.zero_grad()
        loss: torch.Tensor = self.loss(**{name: torch.from_numpy(each) for name, each in batch.items()})
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def tensors(self) -> dict[str, Array]:
        """Copies of parameters and states, by the names of the train program."""
        found = {f"param.{name}": each.detach().numpy().copy() for name, each in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for state, value in self.settings.reference_state(self.optimiser, parameter).items():
                found[f"state.{state}.{name}"] = value.detach().numpy().copy()
        return found

    def vanishing(self) -> set[str]:
        """The parameters whose last gradient is rounding noise."""
        sizes = {name: _rms(each.grad.numpy()) for name, each in self.parameters.items() if each.grad is not None}
        typical = math.sqrt(sum(size**2 for size in sizes.values()) / len(sizes))
        return {name for name, size in sizes.items() if size <= VANISHING * typical}


def _batches(subject: Subject) -> Iterator[dict[str, Array]]:
    """Random batches in native counts; the same at every call."""
    recipe = subject.recipe
    example = example_batch(subject.loss.sizes, recipe.augmentation)
    shapes = {name: tuple(each.shape) for name, each in example.items()}
    stream = 0
    while True:
        batch = {}
        for name, shape in shapes.items():
            batch[name] = uniforms(SEED, stream, math.prod(shape)).reshape(shape).astype(np.float32)
            stream += 1
        batch["images"] = _counts(batch["images"], subject.radiometry)
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
    """The batch with its last sample out, its first counted double and, of three classes or more, one class off."""
    weights, mask, targets = (batch[name].copy() for name in ("weights", "class_mask", "targets"))
    if len(weights) > 1:
        weights[0], weights[-1] = 2.0, 0.0
    if len(mask) > 2:
        mask[-1] = 0.0
        targets *= mask
        targets /= targets.sum(axis=1, keepdims=True)
    return batch | {"weights": weights, "class_mask": mask, "targets": targets}


def _feed(stepper: Stepper, batch: Tensors, rate: float, step: int) -> float:
    """Run one step of the program on a batch."""
    scalars = {"lr": np.float32(rate), "step": np.float32(step)}
    for name, buffer in stepper.feeds.items():
        buffer[...] = scalars[name] if name in scalars else batch[name]
    return stepper.step()


def _step_error(subject: Subject, weights: Tensors) -> tuple[str, float]:
    """The tensor that one step gets most wrong, and its relative error; of a few steps, the first within the limit."""
    reference, batches = _Reference(subject, weights), _batches(subject)
    for _ in range(WARM_STEPS):
        reference.step(next(batches))
    stepper = Stepper(subject.recipe, "full")
    worst = ("", math.inf)
    for attempt in range(ATTEMPTS):
        worst = min(worst, _compare_step(subject, reference, stepper, next(batches), WARM_STEPS + attempt), key=_error)
        if worst[1] <= STEP_LIMIT:
            break
    return worst


def _compare_step(
    subject: Subject, reference: _Reference, stepper: Stepper, batch: dict[str, Array], step: int
) -> tuple[str, float]:
    """One step of both from the same point on the same batch."""
    before, batch = reference.tensors(), _with_gaps(batch)
    stepper.load(before)
    _feed(stepper, batch, subject.optimiser.trial_rate, step)
    reference.step(batch)
    moved = {name: each - before[name] for name, each in stepper.tensors().items()}
    expected = {name: each - before[name] for name, each in reference.tensors().items()}
    return _worst(moved, expected, reference.vanishing())


def _error(named: tuple[str, float]) -> float:
    """For sorting, with NaN above everything."""
    return math.inf if math.isnan(named[1]) else named[1]


def _worst(moved: Tensors, expected: Tensors, vanishing: set[str]) -> tuple[str, float]:
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
            errors[name] = _rms(moved[name] - each) / max(_rms(each), 1e-30)
        elif _kind(name) != "param":
            errors[name] = _rms(moved[name] - each) / max(typical[_kind(name)], 1e-30)
    return max(errors.items(), key=_error)


def _kinds(tensors: Tensors) -> set[str]:
    return {_kind(name) for name in tensors}


def _kind(name: str) -> str:
    """ "param", or "state.momentum" and its like."""
    parts = name.split(".")
    return parts[0] if parts[0] == "param" else ".".join(parts[:2])


def _rms(values: Array) -> float:
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def _loss_error(subject: Subject, weights: Tensors) -> float:
    """The largest relative difference of the loss while both train from the same weights on the same batches."""
    reference, batches = _Reference(subject, weights), _batches(subject)
    stepper = Stepper(subject.recipe, "full")
    states = {f"state.{each.name}": draw(each, SEED, 0) for each in subject.recipe.state["full"]}
    stepper.load({f"param.{name}": each for name, each in weights.items()} | states)
    errors = []
    for step in range(LOSS_STEPS):
        batch = next(batches)
        expected = reference.step(batch)
        errors.append(abs(_feed(stepper, batch, subject.optimiser.trial_rate, step) / expected - 1.0))
    return float(np.max(errors))


def _probability_error(subject: Subject, weights: Tensors) -> float:
    """The largest difference of ``predict`` on one batch."""
    load_weights(subject.loss.model, weights)
    model: nn.Module = Prediction(subject.loss.model, subject.radiometry).eval()
    images = next(_batches(subject))["images"].astype(subject.radiometry.dtype)
    program = complete_model(subject.recipe.programs["predict"], weights, {})
    session = open_session(program, f"{subject.where}, program predict")
    (found,) = run_session(session, {"images": images}, subject.where)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    return float(np.max(np.abs(found - expected)))
