"""Reverse-mode differentiation over the tape of a captured module (Griewank & Walther 2008, chapter 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fieldkit.errors import ProgramError
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import Entry
from fieldkit.hq.compiler.nodes import Value


def gradients(graph: Graph, tape: Sequence[Entry], loss: Value, parameters: Sequence[Value]) -> list[Value]:
    """The gradient of the scalar ``loss`` for each parameter, written into ``graph``."""
    known: dict[Value, Value] = {loss: graph.constant(1.0, loss.dtype)}
    for entry in reversed(tape):
        arriving = [known.pop(each, None) for each in entry.outputs]
        if any(each is not None for each in arriving):
            _send_back(graph, entry, arriving, known)
    unreached = [each.name for each in parameters if each not in known]
    if unreached:
        raise ProgramError(
            "the loss does not depend on these parameters",
            where=", ".join(unreached),
            remedy="remove layers that the model never calls, or whose gradient it stops (detach, a comparison, a "
            "torch.autograd.Function of its own), or freeze them",
        )
    return [known[each] for each in parameters]


def _send_back(graph: Graph, entry: Entry, arriving: Sequence[Value | None], known: dict[Value, Value]) -> None:
    """Run one pullback and add what it returns to the gradients of the call's arguments."""
    for argument, gradient in _pairs(entry.arguments, entry.pullback(*arriving)):
        if isinstance(argument, Value) and argument.trains and gradient is not None:
            before = known.get(argument)
            # A call that promotes its arguments hands their gradients back in its own dtype.
            typed = graph.cast(gradient, argument.dtype)
            known[argument] = typed if before is None else graph.op("Add", before, typed)


def _pairs(arguments: Iterable[Any], returned: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    for argument, gradient in zip(arguments, returned, strict=False):
        if isinstance(argument, list):
            yield from _pairs(argument, gradient or [])
        else:
            yield argument, gradient
