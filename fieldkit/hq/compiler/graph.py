"""A small in-memory ONNX graph: what the rules write, and what becomes a program's bytes.

It knows every shape and dtype as it grows, folds constants, gives equal nodes one value, and on serialising leaves out
what no output needs and numbers the names afresh.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from fieldkit.hq.compiler.nodes import (
    IR_VERSION,
    OPSET,
    UNKNOWN,
    Dim,
    Node,
    Value,
    element_type,
    evaluate,
    output_types,
    value_info,
)

# A folded constant larger than this would cost more in the bundle than it saves on the device.
FOLD_LIMIT = 4096
RANDOM = "random."


class Graph:
    """Grows node by node; ``serialise`` gives the program's bytes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[Node] = []
        self._inputs: list[Value] = []
        self._free: list[str] = []
        self._outputs: list[tuple[str, Value]] = []
        self._constants: list[Value] = []
        self._known: dict[Any, tuple[Value, ...]] = {}

    def input(self, name: str, dtype: str, shape: Sequence[Dim], *, trains: bool = False) -> Value:
        """Declare an input; it is left out of the program when no output needs it."""
        value = Value(name, dtype, tuple(shape), trains)
        self._inputs.append(value)
        return value

    def random(self, shape: Sequence[int]) -> Value:
        """Uniform randoms in [0, 1), float32, which the host draws anew for each step: the input ``random.<i>``."""
        count = sum(each.name.startswith(RANDOM) for each in self._inputs)
        return self.input(f"{RANDOM}{count}", "float32", shape)

    def free(self, name: str, dtype: str, shape: Sequence[Dim]) -> Value:
        """A name that the stored program uses and the device defines: a weight of ``predict``."""
        self._free.append(name)
        return Value(name, dtype, tuple(shape))

    def output(self, name: str, value: Value) -> None:
        """Make ``value`` an output of the program."""
        self._outputs.append((name, value))

    def constant(self, value: Any, dtype: str | None = None) -> Value:
        """A constant of the program; equal constants are one."""
        array = np.array(value, dtype=dtype, order="C")
        key = (array.dtype.name, array.shape, array.tobytes())
        if key not in self._known:
            made = Value(f"%c{len(self._constants)}", array.dtype.name, array.shape, constant=array)
            self._constants.append(made)
            self._known[key] = (made,)
        return self._known[key][0]

    def op(self, operator: str, *inputs: Value | None, **attributes: Any) -> Value:
        """Add a node with one output, or find the equal one that is there."""
        return self.ops(operator, *inputs, count=1, **attributes)[0]

    def ops(self, operator: str, *inputs: Value | None, count: int, **attributes: Any) -> tuple[Value, ...]:
        """Add a node with ``count`` outputs; an input that is None is absent."""
        settings = tuple(sorted((name, value) for name, value in attributes.items() if value is not None))
        # ``trains`` is part of the key: a stopped copy shares its name with the value that it was copied from.
        parts = tuple(None if each is None else (each.name, each.trains) for each in inputs)
        key = (operator, parts, repr(settings), count)
        if key not in self._known:
            self._known[key] = self._add(operator, inputs, settings, count)
        return self._known[key]

    def _add(
        self, operator: str, inputs: Sequence[Value | None], settings: tuple[tuple[str, Any], ...], count: int
    ) -> tuple[Value, ...]:
        same = _unchanged(operator, inputs, dict(settings))
        if same is not None:
            return (same,)
        names = tuple("" if each is None else each.name for each in inputs)
        made = tuple(f"%{len(self._nodes)}.{index}" for index in range(count))
        node = Node(operator, names, made, settings)
        present = [each for each in inputs if each is not None]
        types = output_types(node, present)
        if all(each.constant is not None for each in present) and all(_is_small(shape) for _, shape in types):
            return tuple(self.constant(array) for array in evaluate(node, present))
        self._nodes.append(node)
        trains = any(each.trains for each in present)
        return tuple(Value(name, dtype, shape, trains) for name, (dtype, shape) in zip(made, types, strict=True))

    # The words that rules use most.

    def cast(self, value: Value, dtype: str) -> Value:
        return self.op("Cast", value, to=element_type(dtype))

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """``shape`` may keep a symbolic axis, and may leave one axis open by -1."""
        kept = [0 if isinstance(n, str) and value.shape[axis : axis + 1] == (n,) else n for axis, n in enumerate(shape)]
        made = self.op("Reshape", value, self.constant([-1 if isinstance(n, str) else n for n in kept], "int64"))
        return replace(made, shape=tuple(shape)) if UNKNOWN in made.shape else made

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        return self.op("Transpose", value, perm=[int(axis) for axis in order])

    def sum(self, value: Value, axes: Sequence[int], *, keep: bool) -> Value:
        return self._reduce("ReduceSum", value, axes, keep)

    def mean(self, value: Value, axes: Sequence[int], *, keep: bool) -> Value:
        return self._reduce("ReduceMean", value, axes, keep)

    def _reduce(self, operator: str, value: Value, axes: Sequence[int], keep: bool) -> Value:
        # An axis of one element needs no arithmetic, for which onnxruntime would take a slow path.
        longer = [axis for axis in axes if value.shape[axis] != 1]
        if not longer:
            kept = [n for axis, n in enumerate(value.shape) if keep or axis not in axes]
            return self.reshape(value, kept)
        if len(longer) < len(axes) and not keep:
            value = self.reshape(value, [n for axis, n in enumerate(value.shape) if axis in longer or axis not in axes])
            dropped = set(axes) - set(longer)
            longer = [axis - sum(gone < axis for gone in dropped) for axis in longer]
        return self.op(operator, value, self.constant(longer, "int64"), keepdims=int(keep))

    def slice(self, value: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """``value[start:stop:step]`` along one axis."""
        numbers = (start, stop, axis) if step == 1 else (start, stop, axis, step)
        parts = (self.constant([n], "int64") for n in numbers)
        return self.op("Slice", value, *parts)

    def first(self, value: Value, count: Value, name: str) -> Value:
        """The first ``count`` columns, int64 [1], of ``value`` [n, k]; the shape calls their number ``name``."""
        zero, one = self.constant([0], "int64"), self.constant([1], "int64")
        return replace(self.op("Slice", value, zero, count, one), shape=(value.shape[0], name))

    def pad(
        self, value: Value, axes: Sequence[int], before: Sequence[int], after: Sequence[int], filling: float = 0.0
    ) -> Value:
        """``filling`` around some axes; negative numbers cut."""
        for axis, first, last in zip(axes, before, after, strict=True):
            if min(first, last) < 0:
                value = self.slice(value, axis, max(-first, 0), value.size(axis) - max(-last, 0))
        widths = [max(each, 0) for each in (*before, *after)]
        if not any(widths):
            return value
        # For all axes: onnxruntime moves a Transpose past a Pad of some axes, and then pads others (1.23 and 1.32 do).
        whole = np.zeros((2, value.rank), np.int64)
        whole[:, list(axes)] = np.reshape(widths, (2, -1))
        made = self.op("Pad", value, self.constant(whole.ravel()), self.constant(filling, value.dtype))
        if UNKNOWN not in made.shape:
            return made
        kept = [value.shape[axis] if n == UNKNOWN else n for axis, n in enumerate(made.shape)]
        return replace(made, shape=tuple(kept))

    def live_nodes(self) -> list[Node]:
        """The nodes that some output needs, in order."""
        needed = {value.name for _, value in self._outputs}
        live = []
        for node in reversed(self._nodes):
            if needed.intersection(node.outputs):
                live.append(node)
                needed.update(node.inputs)
        return live[::-1]

    def serialise(self) -> bytes:
        """The program: canonical protobuf bytes, equal for equal graphs."""
        nodes = self.live_nodes()
        produced, copies = self._output_names(nodes)
        used = {name for node in nodes for name in node.inputs} | {value.name for _, value in self._outputs}
        inputs = [each for each in self._inputs if each.name in used]
        constants = [each for each in self._constants if each.name in used]
        names = {name: name for name in ("", *self._free, *(each.name for each in inputs))}
        names |= {each.name: f"c{index}" for index, each in enumerate(constants)} | produced
        inner = [output for node in nodes for output in node.outputs if output not in produced]
        names |= {output: f"t{index}" for index, output in enumerate(inner)}
        protos = [node.proto(names) for node in nodes]
        protos += [helper.make_node("Identity", [names[source]], [target]) for target, source in copies]
        graph = helper.make_graph(
            protos,
            self.name,
            [value_info(each.name, each) for each in inputs],
            [value_info(name, value) for name, value in self._outputs],
            [numpy_helper.from_array(np.asarray(each.constant), names[each.name]) for each in constants],
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="fieldkit")
        return bytes(model.SerializeToString(deterministic=True))

    def _output_names(self, nodes: Iterable[Node]) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """The values that take an output's name, and the outputs that must be copies of another value."""
        made = {name for node in nodes for name in node.outputs}
        named: dict[str, str] = {}
        copies: list[tuple[str, str]] = []
        for name, value in self._outputs:
            if value.name in made and value.name not in named:
                named[value.name] = name
            else:
                copies.append((name, value.name))
        return named, copies


def stopped(value: Value) -> Value:
    """The same tensor with the gradient stopped."""
    return replace(value, trains=False)


def _is_small(shape: Sequence[Dim]) -> bool:
    return all(isinstance(n, int) for n in shape) and math.prod(int(n) for n in shape) <= FOLD_LIMIT


def _unchanged(operator: str, inputs: Sequence[Value | None], settings: dict[str, Any]) -> Value | None:
    """The input that a node would only repeat, if it would."""
    first, second = (*inputs, None, None)[:2]
    if first is None:
        return None
    if operator in ("Add", "Mul", "Sub", "Div") and second is not None:
        neutral = 0 if operator in ("Add", "Sub") else 1
        if _is_all(second, neutral) and _absorbs(first, second):
            return first
        if operator in ("Add", "Mul") and _is_all(first, neutral) and _absorbs(second, first):
            return second
    elif operator == "Cast" and settings["to"] == element_type(first.dtype):
        return first
    elif operator in ("Reshape", "Expand") and second is not None and second.constant is not None:
        # Against a symbolic axis, 0 (Reshape) and 1 (Expand) say "as it is".
        kept = 0 if operator == "Reshape" else 1
        wanted = [int(n) for n in second.constant]
        if wanted == [kept if isinstance(n, str) else n for n in first.shape]:
            return first
    elif operator == "Transpose" and list(settings["perm"]) == list(range(first.rank)):
        return first
    return None


def _is_all(value: Value, number: float) -> bool:
    return value.constant is not None and bool((value.constant == number).all())


def _absorbs(value: Value, other: Value) -> bool:
    """Whether broadcasting ``value`` with ``other`` leaves its shape as it is."""
    padded = (1,) * (value.rank - other.rank) + other.shape
    return len(padded) == value.rank and all(b in (1, a) for a, b in zip(value.shape, padded, strict=True))
