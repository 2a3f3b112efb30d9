"""A recipe's programs: the train step of a scope, and ``predict``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.export import ExportedProgram

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import UNLABELLED, Augmentation, Tensor
from fieldkit.errors import ProgramError
from fieldkit.field.models.exporting import CLASS_COUNT
from fieldkit.hq.augmentation import augment
from fieldkit.hq.compiler.capture import capture
from fieldkit.hq.compiler.differentiation import gradients
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import lower
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.scopes import set_modes, trained_parameters
from fieldkit.hq.compiler.updates import Moved, Update
from fieldkit.hq.models.laws import carried_buffers, parameter_tensors
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.objectives import classification


@dataclass(frozen=True)
class Sizes:
    """The static sizes of a train program.

    class_count: the model's outputs.  spare: how many of them, the last, are kept for classes that a device will add.
    """

    batch: int
    input_shape: tuple[int, int, int]
    class_count: int
    spare: int = 0


class TrainingLoss(nn.Module):
    """Native counts and soft labels -> loss: what a train program differentiates.

    unlabelled: rows of targets that are all 0 count by the entropy of their predictions.
    """

    def __init__(
        self,
        model: nn.Module,
        radiometry: Radiometry,
        augmentation: Augmentation,
        sizes: Sizes,
        label_smoothing: float = 0.0,
        unlabelled: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.radiometry = radiometry
        self.normalise = Normalise(radiometry)
        self.augmentation = augmentation
        self.sizes = sizes
        self.label_smoothing = label_smoothing
        self.unlabelled = unlabelled

    def of(self, scope: str) -> TrainingLoss:
        """The loss that programs of ``scope`` differentiate: itself, or of the same model without labels.

        Nothing changes the images of the latter: its predictions are to be made surer as they are in use.
        """
        if scope != UNLABELLED:
            return self
        return TrainingLoss(self.model, self.radiometry, Augmentation(), self.sizes, unlabelled=True)

    def forward(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        class_mask: torch.Tensor,
        aug: torch.Tensor | None = None,
    ) -> torch.Tensor:
        images = self.normalise(images)
        if aug is not None:
            images = augment(images, aug, self.augmentation)
        if self.label_smoothing:
            targets = classification.smoothed(targets, class_mask, self.label_smoothing)
        loss = classification.unlabelled_loss if self.unlabelled else classification.loss
        return loss(self.model(images), targets, weights, class_mask)


class Logits(nn.Module):
    """Native counts -> logits of all outputs."""

    def __init__(self, model: nn.Module, radiometry: Radiometry) -> None:
        super().__init__()
        self.model = model
        self.normalise = Normalise(radiometry)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.model(self.normalise(images)))


class Prediction(Logits):
    """Native counts -> probabilities of the first ``class_count`` outputs; None takes all."""

    def __init__(self, model: nn.Module, radiometry: Radiometry, class_count: int | None = None) -> None:
        super().__init__(model, radiometry)
        self.class_count = class_count

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return classification.probabilities(logits if self.class_count is None else logits[:, : self.class_count])


def example_batch(sizes: Sizes, augmentation: Augmentation) -> dict[str, torch.Tensor]:
    """Zeros in the shapes of a train program's host inputs."""
    shapes: dict[str, tuple[int, ...]] = {
        "images": (sizes.batch, *sizes.input_shape),
        "targets": (sizes.batch, sizes.class_count),
        "weights": (sizes.batch,),
        "class_mask": (sizes.class_count,),
    }
    if augmentation.width:
        shapes["aug"] = (sizes.batch, augmentation.width)
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Tensors:
    """A model's tensors in the order of the recipe: what can be trained, then the statistics that training carries."""

    parameters: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> Tensors:
        return cls(parameter_tensors(model), carried_buffers(model))

    @property
    def all(self) -> tuple[Tensor, ...]:
        return (*self.parameters, *self.buffers)


@dataclass(frozen=True)
class TrainProgram:
    """One training step as ONNX bytes, and the states that it carries."""

    program: bytes
    state: tuple[Tensor, ...]


def train_program(loss: TrainingLoss, tensors: Tensors, update: Update, scope: str = "full") -> TrainProgram:
    """One training step of what ``scope`` trains: see docs/program.md for its inputs and outputs."""
    loss = loss.of(scope)
    trained = trained_parameters(loss.model, scope)
    graph = Graph(f"train/{scope}")
    values = {
        each.name: graph.input(f"param.{each.name}", "float32", each.shape, trains=each.name in trained)
        for each in tensors.all
    }
    set_modes(loss.model, trained)
    batch = example_batch(loss.sizes, loss.augmentation)
    captured = capture(loss, batch)
    changed = _changed(captured, tensors)
    moving = [each for each in tensors.parameters if each.name in trained]
    state = update.state_tensors(moving, changed)
    states = {each.name: graph.input(f"state.{each.name}", "float32", each.shape) for each in state}
    host = {name: graph.input(name, "float32", tuple(each.shape)) for name, each in batch.items()}
    rate, step = graph.input("lr", "float32", ()), graph.input("step", "float32", ())
    lowered = lower(captured, graph, host | _by_every_name(loss.model, values))
    slopes = gradients(graph, lowered.tape, lowered.outputs[0], [values[each.name] for each in moving])
    moved = [Moved(each.name, values[each.name], slope) for each, slope in zip(moving, slopes, strict=True)]
    carried = {each.name: lowered.buffers[f"model.{each.name}"] for each in changed}
    moved += [Moved(name, values[name], carried=value) for name, value in carried.items()]
    made = update.write(graph, moved, states, rate, step)
    for name in [*(f"param.{each.name}" for each in moved), *(f"state.{each.name}" for each in state)]:
        graph.output(f"new.{name}", made[name])
    graph.output("loss", lowered.outputs[0])
    return TrainProgram(graph.serialise(), state)


def _by_every_name(model: nn.Module, values: Mapping[str, Value]) -> dict[str, Value]:
    """The values of a model's tensors by all names that torch may call them, shared tensors having several."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    owned = {id(each): values[name] for name, each in named if name in values}
    return {f"model.{name}": owned[id(each)] for name, each in named if id(each) in owned}


def _changed(captured: ExportedProgram, tensors: Tensors) -> list[Tensor]:
    """The buffers that a step changes.  Counters (``num_batches_tracked``), which predict never reads, are left out."""
    names = {name.removeprefix("model.") for name in captured.graph_signature.buffers_to_mutate.values()}
    known = {each.name for each in tensors.buffers}
    buffers = captured.constants | captured.state_dict
    strange = sorted(name for name in names - known if buffers[f"model.{name}"].is_floating_point())
    if strange:
        raise ProgramError(
            "the model changes a buffer while it trains",
            where=", ".join(strange),
            expected="only the running statistics of batch normalisations",
            remedy="make it a parameter, or compute it anew in each step",
        )
    return [each for each in tensors.buffers if each.name in names]


def predict_program(model: nn.Module, radiometry: Radiometry, sizes: Sizes, tensors: Tensors) -> bytes:
    """``predict`` without its weights: the device appends them, and with spare classes the number of those in use."""
    graph = Graph("predict")
    images = graph.input("images", radiometry.dtype, ("N", *sizes.input_shape))
    weights = {each.name: graph.free(f"param.{each.name}", "float32", each.shape) for each in tensors.all}
    # Two images, because torch takes a first axis of size 1 for a constant.
    example = torch.zeros((2, *sizes.input_shape), dtype=getattr(torch, radiometry.dtype))
    module = Logits(model, radiometry) if sizes.spare else Prediction(model, radiometry)
    captured = capture(module.eval(), {"images": example}, free_batch=True)
    (made,) = lower(captured, graph, {"images": images} | _by_every_name(model, weights)).outputs
    if sizes.spare:
        used = graph.first(made, graph.free(CLASS_COUNT, "int64", (1,)), "K")
        made = graph.op("Softmax", used, axis=1)
    graph.output("probabilities", made)
    return graph.serialise()
