"""How much an operator computes where that is more than it reads and writes: products, convolutions and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fieldkit.field.programs.graph import Node
from fieldkit.field.programs.shapes.arguments import Shape


def work(node: Node, shapes: Sequence[Shape], made: Sequence[Shape]) -> int:
    """An upper bound of a node's multiplications or comparisons; 0 for operators of other kinds.

    shapes: of its inputs.  made: of its outputs.
    """
    written = math.prod(made[0]) if made else 0
    if node.operator == "Conv":
        return written * math.prod(shapes[1][1:])
    if node.operator == "ConvTranspose":
        return math.prod(shapes[0]) * math.prod(shapes[1][1:])
    if node.operator in ("MatMul", "Gemm"):
        transposed = node.operator == "Gemm" and node.number("transA", 0)
        return written * shapes[0][-2 if transposed else -1]
    if node.operator in ("AveragePool", "MaxPool"):
        return written * math.prod(node.numbers("kernel_shape") or ())
    return 0
