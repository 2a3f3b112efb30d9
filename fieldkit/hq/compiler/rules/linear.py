"""Rules of linear layers."""

from __future__ import annotations

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

Made = tuple[Value, Pullback | None]


def linear(call: Call, x: Value, weight: Value, bias: Value | None = None) -> Made:
    """y = x weight^T + bias for x [n, in] and weight [out, in]."""
    if x.rank != 2:
        raise call.refuse(f"an input of {x.rank} axes", "2 axes", "flatten what comes before the linear layer")
    graph = call.graph
    y = graph.op("Gemm", x, weight, bias, transB=1)

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        dx = graph.op("MatMul", dy, weight) if x.trains else None
        dweight = graph.op("Gemm", dy, x, transA=1)
        dbias = None if bias is None else graph.sum(dy, [0], keep=False)
        return dx, dweight, dbias

    return y, pullback


RULES: dict[str, Rule] = {
    "aten.linear.default": linear,
}
