"""From an architecture's name and options to a recipe whose programs are proven against torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Augmentation, Recipe, Schedule
from fieldkit.errors import UsageError
from fieldkit.hq.compiler.optimisers import Optimiser
from fieldkit.hq.compiler.parity import LONG_BATCH, Parity, Subject, check_parity
from fieldkit.hq.compiler.programs import Sizes, Tensors, TrainingLoss, predict_program, train_program
from fieldkit.hq.compiler.updates import Regularisation, Update
from fieldkit.hq.models import build_model, description, model_options
from fieldkit.hq.models.whitening import Whitened

PLAIN = Regularisation()


@dataclass(frozen=True)
class Compiled:
    """A recipe and the proof that its programs do what torch does."""

    recipe: Recipe
    parity: Parity


@dataclass(frozen=True)
class Data:
    """What a recipe must know of the data: the shape and meaning of an image, and how many classes there are.

    spare: outputs beside those of the classes, which a device gives to classes of its own.
    kernel: what whitens normalised images on their way into any network (``whitening_kernel``), or None.
    """

    input_shape: tuple[int, int, int]
    class_count: int
    radiometry: Radiometry
    spare: int = 0
    kernel: torch.Tensor | None = None

    @property
    def outputs(self) -> int:
        """Logits of a model: one for each class and for each spare one."""
        return self.class_count + self.spare

    def __post_init__(self) -> None:
        if self.class_count < 2:
            raise UsageError("a classifier needs two classes", where="class_count", found=self.class_count)
        if len(self.radiometry.mean) != self.input_shape[0]:
            raise UsageError(
                "one mean and std per channel",
                where="radiometry",
                found=len(self.radiometry.mean),
                expected=self.input_shape[0],
            )


def network(name: str, options: Any, data: Data) -> nn.Module:
    """Architecture ``name`` for these data, freshly initialised; it maps normalised images to logits."""
    model = build_model(name, options, data.input_shape, data.outputs)
    return model if data.kernel is None else Whitened(model, data.kernel)


def compile_recipe(
    name: str,
    options: Any,
    data: Data,
    *,
    optimiser: Optimiser,
    schedule: Schedule,
    augmentation: Augmentation = Augmentation(),
    regularisation: Regularisation = PLAIN,
    scopes: Sequence[str] = ("full",),
) -> Compiled:
    """Compile architecture ``name`` into a recipe of programs ``predict`` and ``train/<scope>`` for each of ``scopes``.

    name: one of ``fieldkit.hq.models``'s, or "package.module:factory" for a module from anywhere.
    options: the architecture's options dataclass, or a mapping of the fields that somebody chose; the recipe's
    ``architecture`` records all of them.  schedule.batch fixes the batch of the train program.
    Raises UsageError for options out of range; ProgramError for a model that cannot be compiled, or whose programs
    differ from torch.
    """
    chosen = model_options(name, options, data.input_shape)
    whitening = {} if data.kernel is None else {"whiten": data.kernel.shape[2]}
    return compile_model(
        network(name, chosen, data),
        description(name, chosen) | whitening,
        data,
        optimiser=optimiser,
        schedule=schedule,
        augmentation=augmentation,
        regularisation=regularisation,
        scopes=scopes,
    )


def compile_model(
    model: nn.Module,
    architecture: Mapping[str, Any],
    data: Data,
    *,
    optimiser: Optimiser,
    schedule: Schedule,
    augmentation: Augmentation = Augmentation(),
    regularisation: Regularisation = PLAIN,
    scopes: Sequence[str] = ("full",),
) -> Compiled:
    """``compile_recipe`` for a module at hand; ``architecture`` describes it for people and holds its "name"."""
    update = Update(optimiser, regularisation)

    def subject(batch: int) -> Subject:
        sizes = Sizes(batch, data.input_shape, data.outputs, data.spare)
        loss = TrainingLoss(model, data.radiometry, augmentation, sizes, regularisation.label_smoothing)
        return _subject(loss, architecture, update, replace(schedule, batch=batch), scopes)

    whole = subject(schedule.batch)
    small = subject(LONG_BATCH) if schedule.batch > LONG_BATCH else None
    predict = predict_program(model, data.radiometry, whole.loss.sizes, Tensors.of(model))
    recipe = replace(whole.recipe, programs={**whole.recipe.programs, "predict": predict})
    return Compiled(recipe, check_parity(replace(whole, recipe=recipe), small))


def _subject(
    loss: TrainingLoss, architecture: Mapping[str, Any], update: Update, schedule: Schedule, scopes: Sequence[str]
) -> Subject:
    """The train programs of a model in its loss, with what they are compared to."""
    tensors = Tensors.of(loss.model)
    trains = {scope: train_program(loss, tensors, update, scope) for scope in scopes}
    programs = {f"train/{scope}": each.program for scope, each in trains.items()}
    state = {scope: each.state for scope, each in trains.items()}
    name = str(architecture["name"])
    recipe = Recipe(name, architecture, tensors.all, state, programs, schedule, loss.augmentation)
    return Subject(recipe, loss, update)
