"""The free batch of a prediction: its first axis is "N", and what is the same for all images has 1 there instead.

Every operator that broadcasts takes the one for the other.  ONNX has no way to repeat something N times without asking
for a shape, so a token or a constant that torch expands over the batch stays as it is until it meets the images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from fieldkit.errors import ProgramError
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Dim, Value

# The batch, or so many parts of each of its images.
PARTS = re.compile(r"(?:(\d+)\*)?N")


def is_static(shape: Sequence[Dim]) -> bool:
    return all(isinstance(n, int) for n in shape)


def of_one(shape: Sequence[Dim], path: str) -> tuple[int, ...]:
    """A shape for a batch of one image."""
    sizes = []
    for n in shape:
        parts = re.fullmatch(PARTS, str(n))
        if not isinstance(n, int) and parts is None:
            remedy = "let sizes depend on the batch by whole multiples only"
            raise ProgramError("a size depends on the batch in another way", where=path, found=n, remedy=remedy)
        sizes.append(n if isinstance(n, int) else int((parts and parts[1]) or 1))
    return tuple(sizes)


def repeated(graph: Graph, x: Value, like: Value) -> Value:
    """x [1, ...], once for each image of ``like`` [N, ...]."""
    corner = like
    for axis in range(1, like.rank):
        corner = graph.slice(corner, axis, 0, 1)
    first = graph.reshape(corner, (like.shape[0], *(1 for _ in x.shape[1:])))
    # A number equals itself: ones, whatever the images hold.
    return graph.op("Mul", x, graph.cast(graph.op("Equal", first, first), x.dtype))


def product(dims: Sequence[Dim]) -> Dim:
    """The size of some axes as one, of which the batch may be one."""
    whole = math.prod(n for n in dims if isinstance(n, int))
    free = [n for n in dims if isinstance(n, str)]
    if not free:
        return whole
    whole *= math.prod(of_one(free, "the compiler"))
    return "N" if whole == 1 else f"{whole}*N"
