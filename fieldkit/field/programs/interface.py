"""What a train program must read and write: the contract of docs/program.md, checked on its inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fieldkit.bundle.recipe import Recipe
from fieldkit.errors import ProgramError

MAX_VALUES = 2**31
"""Values of one tensor that a training reads or writes."""
FEEDS = ("images", "targets", "weights", "class_mask", "lr", "step", "aug")
RANDOM = "random."
"""What the inputs that take fresh uniform randoms at each step begin with."""


class Node(Protocol):
    """An input or output as onnxruntime describes it."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def shape(self) -> Sequence[Any]: ...


def check_interface(inputs: Sequence[Node], outputs: Sequence[Node], recipe: Recipe, scope: str) -> None:
    """Raise ProgramError, with all that is wrong, unless a train program keeps the contract for ``recipe``."""
    missing, unknown = _faults(
        {each.name: each for each in inputs}, {each.name: each for each in outputs}, recipe, scope
    )
    if not missing and not unknown:
        return
    found = [f"it lacks {', '.join(missing)}"] * bool(missing) + [f"it has {', '.join(unknown)}"] * bool(unknown)
    raise ProgramError(
        "a train program breaks the contract",
        where=f"recipe {recipe.name}, program train/{scope}",
        found="; ".join(found),
        expected="what docs/program.md lists, in float32",
        remedy="build the bundle again with fieldkit build",
    )


def _faults(
    inputs: Mapping[str, Node], outputs: Mapping[str, Node], recipe: Recipe, scope: str
) -> tuple[list[str], list[str]]:
    """What a program lacks, and what it has beside the contract."""
    shapes = {f"param.{each.name}": each.shape for each in recipe.parameters}
    states = {f"state.{each.name}": each.shape for each in recipe.state[scope]}
    shapes |= states
    # A parameter may stay as it is, and one that a step only replaces need not be read; a state is carried.
    known = [*states, *(name for name in shapes if name in inputs)]
    missing = [f"input {name} {shapes[name]}" for name in known if not _is_float(inputs.get(name), shapes[name])]
    made = {f"new.{name}": shapes[name] for name in shapes if name in states or f"new.{name}" in outputs}
    missing += [f"output {name} {shape}" for name, shape in made.items() if not _is_float(outputs.get(name), shape)]
    if not any(name.startswith("new.param.") for name in made):
        missing.append("output new.param.<name> of any parameter")
    missing += [f"input {name}" for name in ("images", "targets", "weights", "lr") if name not in inputs]
    missing += [f"static shape of {name}" for name, each in inputs.items() if not _is_float(each, None)]
    unknown = [f"input {name}" for name in inputs if name not in shapes and not _is_fed(name)]
    unknown += [f"output {name}" for name in outputs if name not in {*made, "loss"}]
    if not _is_float(outputs.get("loss"), ()):
        missing.append("output loss ()")
    return missing or _feed_faults({name: tuple(each.shape) for name, each in inputs.items()}), unknown


def _feed_faults(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Which of the inputs that the host fills have another shape than B images of K classes make them."""
    if len(shapes["images"]) != 4 or len(shapes["targets"]) != 2 or min(shapes["images"] + shapes["targets"]) < 1:
        return ["images (B, C, H, W) and targets (B, K), none of them 0"]
    batch, classes = shapes["images"][0], shapes["targets"][1]
    expected: dict[str, tuple[int, ...]] = {
        "targets": (batch, classes),
        "weights": (batch,),
        "class_mask": (classes,),
        "lr": (),
        "step": (),
        "aug": (batch, (*shapes.get("aug", ()), 0, 0)[1]),
    }
    return [f"{name} {shape}" for name, shape in expected.items() if shapes.get(name, shape) != shape]


def _is_fed(name: str) -> bool:
    """Whether the host fills an input of this name."""
    return name in FEEDS or name.startswith(RANDOM)


def _is_float(node: Node | None, shape: tuple[int, ...] | None) -> bool:
    """Whether a program's input or output is float32 of ``shape`` (None: any without symbols)."""
    if node is None or node.type != "tensor(float)":
        return False
    if not all(isinstance(length, int) for length in node.shape) or math.prod(node.shape) > MAX_VALUES:
        return False
    return shape is None or tuple(node.shape) == shape
