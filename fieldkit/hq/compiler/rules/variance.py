"""Rules of variance and standard deviation, alone and with the mean: weight standardisation, global response norms.

With c = x - mean over the m values of a cell, var = sum(c^2) / (m - correction), and

    dx = dvar * 2 c / (m - correction) + dmean / m,   dvar = dstd / (2 std), and 0 where std is 0, as in torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.masks import TINY, above

Outputs = tuple[Value | tuple[Value, ...], Pullback | None]


def _rule(*, root: bool, mean: bool) -> Rule:
    """By ``correction``: what the number of values is reduced by, 1 by default."""

    def rule(
        call: Call, x: Value, axes: Sequence[int] | None = None, correction: float | None = None, keep: bool = False
    ) -> Outputs:
        return _spread(call, x, axes, (1 if correction is None else correction, keep), (root, mean))

    return rule


def _rule_unbiased(*, root: bool, mean: bool) -> Rule:
    """By ``unbiased``: whether the number of values is reduced by 1."""

    def rule(
        call: Call, x: Value, axes: Sequence[int] | None = None, unbiased: bool = True, keep: bool = False
    ) -> Outputs:
        return _spread(call, x, axes, (int(unbiased), keep), (root, mean))

    return rule


def _rule_of_all(*, root: bool, mean: bool) -> Rule:
    def rule(call: Call, x: Value, unbiased: bool = True) -> Outputs:
        return _spread(call, x, None, (int(unbiased), False), (root, mean))

    return rule


def _spread(
    call: Call, x: Value, given: Sequence[int] | None, options: tuple[float, bool], wanted: tuple[bool, bool]
) -> Outputs:
    """options: the correction, and whether reduced axes are kept.  wanted: whether the root, and the mean as well."""
    graph, (correction, keep), (root, with_mean) = call.graph, options, wanted
    axes = sorted(axis % x.rank for axis in given or range(x.rank))
    count = math.prod(x.size(axis) for axis in axes)
    if count <= correction:
        raise call.refuse(f"{count} values", f"more than the correction of {correction}", "use unbiased=False")
    mean = graph.mean(x, axes, keep=True)
    centred = graph.op("Sub", x, mean)
    variance = graph.mean(graph.op("Mul", centred, centred), axes, keep=True)
    variance = graph.op("Mul", variance, graph.constant(count / (count - correction), "float32"))
    spread = graph.op("Sqrt", variance) if root else variance
    shape = [n for axis, n in enumerate(mean.shape) if keep or axis not in axes]

    def pullback(dspread: Value | None, dmean: Value | None = None) -> tuple[Value | None]:
        dx = None
        if dspread is not None:
            dvariance = _through_root(graph, kept(dspread), spread) if root else kept(dspread)
            slope = graph.op("Mul", dvariance, graph.constant(2.0 / (count - correction), "float32"))
            dx = graph.op("Mul", centred, slope)
        if dmean is not None:
            level = graph.op("Mul", kept(dmean), graph.constant(1.0 / count, "float32"))
            wide = graph.constant(x.sizes, "int64")
            dx = graph.op("Expand", level, wide) if dx is None else graph.op("Add", dx, level)
        return (dx,)

    def kept(dy: Value) -> Value:
        return graph.reshape(dy, mean.shape)

    made = graph.reshape(spread, shape)
    return ((made, graph.reshape(mean, shape)) if with_mean else made), pullback


def _through_root(graph: Graph, dy: Value, root: Value) -> Value:
    """The gradient of what ``root`` is the root of, 0 where it is 0."""
    least, two = graph.constant(TINY, "float32"), graph.constant(2.0, "float32")
    divisor = graph.op("Mul", graph.op("Max", root, least), two)
    return graph.op("Mul", graph.op("Div", dy, divisor), above(graph, root, 0.0))


RULES: dict[str, Rule] = {
    f"aten.{name}.{overload}": rule(root=name.startswith("std"), mean=name.endswith("_mean"))
    for name in ("var", "std", "var_mean", "std_mean")
    for overload, rule in (("correction", _rule), ("dim", _rule_unbiased), ("default", _rule_of_all))
}
