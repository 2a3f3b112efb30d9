"""What a rule is: one function per ATen operator that writes its forward nodes and returns the way back.

A rule takes a ``Call`` and the operator's arguments in the order of its schema, tensors as ``Value``.  It returns the
output (a tuple for several) and a pullback: given the output's gradient, the gradients of the arguments, in order, with
None for what is no tensor or does not train; arguments after the last differentiable one may be left out.  A rule
returns None as pullback if the output is constant almost everywhere in its arguments (a comparison).

What a pullback writes and nobody needs costs nothing: dead nodes never reach the program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fieldkit.errors import ProgramError
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.rules.sums import inner, summed

# torch's names of free sizes.
SYMBOL = re.compile(r"\bs\d+\b")
Gradient = Value | None | list[Value | None]
Pullback = Callable[..., Sequence[Gradient]]
Rule = Callable[..., tuple[Value | tuple[Value, ...], Pullback | None]]


@dataclass(frozen=True)
class Call:
    """One captured call.

    path: where in the model it stands.  operator: its ATen name.  result: torch's own description of what it returns.
    """

    graph: Graph
    path: str
    operator: str
    result: Any

    @property
    def dtype(self) -> str:
        """The output's dtype, by numpy's name."""
        return dtype_name(self.result.dtype)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The output's shape; the free batch of a prediction shows as "N", windows cut from it as "4*N" and such."""
        return tuple(n if isinstance(n, int) else SYMBOL.sub("N", str(n)) for n in self.result.shape)

    def tensor(self, argument: Value | bool | float, dtype: str | None = None) -> Value:
        """A tensor or a plain number as a Value of ``dtype``; by default of the output's."""
        if isinstance(argument, Value):
            return self.graph.cast(argument, dtype or self.dtype)
        return self.graph.constant(argument, dtype or self.dtype)

    def operand(self, argument: Value | bool | float | None) -> Value:
        """An argument that may be a number as a Value of the output's dtype."""
        if argument is None:
            raise self.refuse(
                "the size of a free batch as a number", "a fixed number", "divide by no size of the batch"
            )
        return self.tensor(argument)

    def random(self) -> Value:
        """Uniform randoms in [0, 1), float32 of the output's shape, drawn by the host for each step."""
        return self.graph.random([n for n in self.shape if isinstance(n, int)])

    def refuse(self, found: object, expected: object, remedy: str) -> ProgramError:
        """The error for a use of the operator that its rule does not cover."""
        return ProgramError(
            f"{self.operator} is not compiled in this form",
            where=self.path,
            found=found,
            expected=expected,
            remedy=remedy,
        )


@dataclass(frozen=True)
class Fusion:
    """A call and the only one that reads its result, compiled as one where that is better.

    applies: decides by the arguments of both calls; the second's first argument, the result between them, is None.
    rule: a rule that takes the first call's arguments, then the second's without its first.
    """

    applies: Callable[[Sequence[Any], Sequence[Any]], bool]
    rule: Rule


def dtype_name(dtype: torch.dtype) -> str:
    """numpy's name of a torch dtype."""
    return str(dtype).removeprefix("torch.")


def gradient_for(graph: Graph, gradient: Value, argument: Value | bool | float) -> Value | None:
    """The gradient of an argument that may have been broadcast, or None for what does not train."""
    return unbroadcast(graph, gradient, argument) if isinstance(argument, Value) and argument.trains else None


def unbroadcast(graph: Graph, gradient: Value, like: Value) -> Value:
    """Sum a gradient over the axes along which ``like`` was broadcast."""
    return graph.reshape(summed(graph, gradient, _broadcast_axes(gradient, like), keep=True), like.shape)


def unbroadcast_product(graph: Graph, gradient: Value, factor: Value, like: Value) -> Value:
    """``unbroadcast`` of gradient * factor: the gradient of the other factor, ``like``, of a product."""
    axes = _broadcast_axes(gradient, like)
    if axes and factor.shape == gradient.shape and axes == list(range(axes[0], gradient.rank)):
        return graph.reshape(inner(graph, gradient, factor, len(axes)), like.shape)
    return unbroadcast(graph, graph.op("Mul", gradient, factor), like)


def _broadcast_axes(gradient: Value, like: Value) -> list[int]:
    extra = gradient.rank - like.rank
    axes = [*range(extra)]
    return axes + [axis + extra for axis, n in enumerate(like.shape) if n == 1 and gradient.shape[axis + extra] != 1]
