"""A recipe's programs: the train step of a scope, and ``predict``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Augmentation, Tensor
from fieldkit.hq.augmentation import augment
from fieldkit.hq.compiler.capture import capture
from fieldkit.hq.compiler.differentiation import gradients
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import lower
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.optimisers import Optimiser, Slot
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.objectives import classification


@dataclass(frozen=True)
class Sizes:
    """The static sizes of a train program."""

    batch: int
    input_shape: tuple[int, int, int]
    class_count: int


class TrainingLoss(nn.Module):
    """Native counts and soft labels -> loss: what a train program differentiates."""

    def __init__(self, model: nn.Module, radiometry: Radiometry, augmentation: Augmentation, sizes: Sizes) -> None:
        super().__init__()
        self.model = model
        self.normalise = Normalise(radiometry)
        self.augmentation = augmentation
        self.sizes = sizes

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
        return classification.loss(self.model(images), targets, weights, class_mask)


class Prediction(nn.Module):
    """Native counts -> probabilities."""

    def __init__(self, model: nn.Module, radiometry: Radiometry) -> None:
        super().__init__()
        self.model = model
        self.normalise = Normalise(radiometry)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return classification.probabilities(self.model(self.normalise(images)))


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


def train_program(loss: TrainingLoss, parameters: Sequence[Tensor], optimiser: Optimiser, scope: str = "full") -> bytes:
    """One training step as a program: see docs/program.md for its inputs and outputs."""
    graph = Graph(f"train/{scope}")
    trained = [graph.input(f"param.{each.name}", "float32", each.shape, trains=True) for each in parameters]
    states = {
        f"{state}.{each.name}": graph.input(f"state.{state}.{each.name}", "float32", each.shape)
        for each in parameters
        for state in optimiser.states
    }
    batch = example_batch(loss.sizes, loss.augmentation)
    host = {name: graph.input(name, "float32", tuple(each.shape)) for name, each in batch.items()}
    rate, step = graph.input("lr", "float32", ()), graph.input("step", "float32", ())
    weights = {f"model.{each.name}": value for each, value in zip(parameters, trained, strict=True)}
    lowered = lower(capture(loss.train(), batch), graph, host | weights)
    slopes = gradients(graph, lowered.tape, lowered.outputs[0], trained)
    new_states: list[tuple[str, Value]] = []
    for each, value, slope in zip(parameters, trained, slopes, strict=True):
        own = {state: states[f"{state}.{each.name}"] for state in optimiser.states}
        updated, carried = optimiser.update(graph, Slot(value, slope, own), rate, step)
        graph.output(f"new.param.{each.name}", updated)
        new_states += [(f"new.state.{state}.{each.name}", carried[state]) for state in optimiser.states]
    for name, value in new_states:
        graph.output(name, value)
    graph.output("loss", lowered.outputs[0])
    return graph.serialise()


def predict_program(model: nn.Module, radiometry: Radiometry, sizes: Sizes, parameters: Sequence[Tensor]) -> bytes:
    """``predict`` without its weights: the device appends them."""
    graph = Graph("predict")
    images = graph.input("images", radiometry.dtype, ("N", *sizes.input_shape))
    weights = {f"model.{each.name}": graph.free(f"param.{each.name}", "float32", each.shape) for each in parameters}
    # Two images, because torch takes a first axis of size 1 for a constant.
    example = torch.zeros((2, *sizes.input_shape), dtype=getattr(torch, radiometry.dtype))
    captured = capture(Prediction(model, radiometry).eval(), {"images": example}, free_batch=True)
    (probabilities,) = lower(captured, graph, {"images": images} | weights).outputs
    graph.output("probabilities", probabilities)
    return graph.serialise()
