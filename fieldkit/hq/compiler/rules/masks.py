"""Where a tensor lies above or below a number, as 1.0 and 0.0 in one pass.

A sigmoid so hard that it rises between neighbouring floats: six times faster than a comparison and its ``Cast``, or
``Where``.  Its slope is a power of 2, so that neither the product nor the difference is rounded.
"""

from __future__ import annotations

import math

import numpy as np

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value

# Slope times limit stays below the largest float32, 2^128.
STEEPEST = 125
# Below this, floats lie closer together than the steepest slope tells apart.
SMALLEST = 2.0**-100
# What a divisor that may be 0 is kept above, where what it divides is 0 or is masked.
TINY = 1e-30


def above(graph: Graph, x: Value, limit: float, *, equal: bool = False) -> Value:
    """1.0 where x > limit (>= with ``equal``), else 0.0; x is float32, of any shape."""
    return _beyond(graph, x, limit, 1.0, equal)


def below(graph: Graph, x: Value, limit: float, *, equal: bool = False) -> Value:
    """1.0 where x < limit (<= with ``equal``), else 0.0; x is float32, of any shape."""
    return _beyond(graph, x, limit, -1.0, equal)


def between(graph: Graph, x: Value, low: float, high: float, *, equal: bool = False) -> Value:
    """1.0 where low < x < high (<= with ``equal``), else 0.0; an infinite end is none."""
    rising = None if low == -math.inf else above(graph, x, low, equal=equal)
    falling = None if high == math.inf else below(graph, x, high, equal=equal)
    if rising is None or falling is None:
        return rising or falling or graph.constant(1.0, "float32")
    return graph.op("Mul", rising, falling)


def _beyond(graph: Graph, x: Value, limit: float, sign: float, equal: bool) -> Value:
    """1.0 where sign * x > sign * limit."""
    number = np.float32(sign * limit)
    if abs(number) < SMALLEST:
        number = np.float32(0)
    slope = 2.0 ** (STEEPEST - max(0, math.frexp(number)[1]))
    if not equal:
        offset = -float(number) * slope
    elif number == 0:
        offset = 1.0
    else:
        offset = -float(np.nextafter(number, np.float32(-math.inf))) * slope
    return graph.op("HardSigmoid", x, alpha=sign * slope, beta=offset)
