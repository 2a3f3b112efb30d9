"""Rules of linear layers and matrix products, of any rank.

A product with one matrix for all is compiled on rows [m, k], so that its gradients are single products as well, and no
large tensor is transposed: Gemm reads either side turned.
"""

from __future__ import annotations

import math

from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, unbroadcast

Made = tuple[Value, Pullback | None]


def linear(call: Call, x: Value, weight: Value, bias: Value | None = None) -> Made:
    """y = x weight^T + bias for x [..., in] and weight [out, in] or [in]."""
    graph = call.graph
    rows, matrix = as_rows(graph, x), graph.reshape(weight, (-1, weight.size(-1)))
    y = graph.op("Gemm", rows, matrix, bias, transB=1)

    def pullback(gradient: Value) -> tuple[Value | None, ...]:
        dy = graph.reshape(gradient, y.shape)
        dx = graph.reshape(graph.op("MatMul", dy, matrix), x.shape) if x.trains else None
        dweight = graph.reshape(graph.op("Gemm", dy, rows, transA=1), weight.shape) if weight.trains else None
        dbias = None if bias is None else unbroadcast(graph, dy, bias)
        return dx, dweight, dbias

    return graph.reshape(y, call.shape), pullback


def product(call: Call, a: Value, b: Value) -> Made:
    """a b for a [..., m, k] and b [..., k, n], broadcast over what stands before; a [k] is a row, b [k] a column."""
    graph = call.graph
    left = graph.reshape(a, (1, *a.shape)) if a.rank == 1 else a
    right = graph.reshape(b, (*b.shape, 1)) if b.rank == 1 else b
    if left.rank > 2 and right.rank == 2:
        left = as_rows(graph, left)
    y = graph.op("MatMul", left, right)

    def pullback(gradient: Value) -> tuple[Value | None, Value | None]:
        dy = graph.reshape(gradient, y.shape)
        da, db = product_gradients(graph, dy, left, right)
        return (
            None if da is None else graph.reshape(da, a.shape),
            None if db is None else graph.reshape(db, b.shape),
        )

    return graph.reshape(y, call.shape), pullback


def product_gradients(graph: Graph, dy: Value, a: Value, b: Value) -> tuple[Value | None, Value | None]:
    """The gradients of a [..., m, k] and b [..., k, n], where they train, from that of their product [..., m, n]."""
    if a.rank == b.rank == 2:
        da = graph.op("Gemm", dy, b, transB=1) if a.trains else None
        return da, graph.op("Gemm", a, dy, transA=1) if b.trains else None
    # onnxruntime takes these transpositions into the product.
    da = unbroadcast(graph, graph.op("MatMul", dy, turned(graph, b)), a) if a.trains else None
    return da, unbroadcast(graph, graph.op("MatMul", turned(graph, a), dy), b) if b.trains else None


def turned(graph: Graph, x: Value) -> Value:
    """The transposed matrices of x [..., m, n]."""
    return graph.transpose(x, (*range(x.rank - 2), x.rank - 1, x.rank - 2))


def as_rows(graph: Graph, x: Value) -> Value:
    """x [..., k] as one matrix [m, k]."""
    return graph.reshape(x, (_count(x.shape[:-1]), x.shape[-1]))


def _count(sizes: tuple[Dim, ...]) -> Dim:
    """The number of elements of some axes, by name where the batch is free."""
    fixed = math.prod(n for n in sizes if isinstance(n, int))
    free = [n for n in sizes if isinstance(n, str)]
    return "*".join(([] if fixed == 1 else [str(fixed)]) + free) if free else fixed


def product_and_sum(call: Call, offset: Value, a: Value, b: Value, beta: float = 1, alpha: float = 1) -> Made:
    """beta * offset + alpha * a b, the offset broadcast: addmm, and baddbmm for batches of matrices."""
    graph = call.graph
    if a.rank == 2:
        y = graph.op("Gemm", a, b, offset, alpha=float(alpha), beta=float(beta))
    else:
        scaled = graph.op("Mul", graph.op("MatMul", a, b), call.tensor(alpha))
        y = graph.op("Add", scaled, graph.op("Mul", offset, call.tensor(beta)))

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        doffset = unbroadcast(graph, graph.op("Mul", dy, call.tensor(beta)), offset) if offset.trains else None
        return doffset, *product_gradients(graph, graph.op("Mul", dy, call.tensor(alpha)), a, b)

    return y, pullback


def outer(call: Call, a: Value, b: Value) -> Made:
    """The product of a column a [m] and a row b [n]: [m, n]."""
    graph = call.graph
    column, row = graph.reshape(a, (*a.shape, 1)), graph.reshape(b, (1, *b.shape))

    def pullback(dy: Value) -> tuple[Value, Value]:
        da, db = graph.op("MatMul", dy, turned(graph, row)), graph.op("MatMul", turned(graph, column), dy)
        return graph.reshape(da, a.shape), graph.reshape(db, b.shape)

    return graph.op("Mul", column, row), pullback


RULES: dict[str, Rule] = {
    "aten.linear.default": linear,
    "aten.matmul.default": product,
    "aten.mm.default": product,
    "aten.bmm.default": product,
    "aten.mv.default": product,
    "aten.dot.default": product,
    "aten.outer.default": outer,
    "aten.addmm.default": product_and_sum,
    "aten.baddbmm.default": product_and_sum,
}
