"""Scaled dot-product attention: softmax(q k^T / sqrt(e) + mask) v.

The way back is that of Dao et al., "FlashAttention", NeurIPS 2022, appendix B.2: the inner product of the softmax with
its gradient is that of the output with its own, which is the smaller tensor.  Differs in that the attention weights are
kept rather than made anew.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule, unbroadcast
from fieldkit.hq.compiler.rules.dropout import native_dropout
from fieldkit.hq.compiler.rules.linear import turned

Made = tuple[Value, Pullback | None]

# Added to a score, it leaves nothing of the score, and of the weight only 0.
NEVER = -1e38


def attention(
    call: Call,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> Made:
    """y [..., l, d] of query [..., l, e], key [..., s, e] and value [..., s, d].

    mask [..., l, s]: true where a token may look, or a number to add to its score.  causal: no token looks ahead.
    """
    if grouped:
        raise call.refuse("heads that share keys", "as many keys as queries", "repeat keys and values for each head")
    graph = call.graph
    factor = call.tensor(1.0 / math.sqrt(query.size(-1)) if scale is None else scale)
    asked = graph.op("Mul", query, factor)
    scores = graph.op("MatMul", asked, turned(graph, key))
    allowed = _allowed(call, mask, causal, (query.size(-2), key.size(-2)))
    added = _added(call, mask, allowed)
    weights = graph.op("Softmax", scores if added is None else graph.op("Add", scores, added), axis=-1)
    if allowed is not None and not causal and _may_be_blind(allowed):
        # torch lets a token that may look nowhere see 0, not the mean of everything.
        weights = graph.op("Mul", weights, call.tensor(allowed))
    (kept, _), back = native_dropout(call, weights, dropout, train=True)
    y = graph.op("MatMul", kept, value)

    def pullback(dy: Value) -> tuple[Value | None, ...]:
        dkept = graph.op("MatMul", dy, turned(graph, value))
        dweights = dkept if back is None else cast(Value, back(dkept, None)[0])
        inner = graph.sum(graph.op("Mul", dy, y), [y.rank - 1], keep=True)
        dscores = graph.op("Mul", weights, graph.op("Sub", dweights, inner))
        dquery = graph.op("Mul", graph.op("MatMul", dscores, key), factor)
        return (
            unbroadcast(graph, dquery, query),
            unbroadcast(graph, graph.op("MatMul", turned(graph, dscores), asked), key),
            unbroadcast(graph, graph.op("MatMul", turned(graph, kept), dy), value),
            unbroadcast(graph, dscores, mask) if mask is not None and mask.trains else None,
        )

    return y, pullback


def _allowed(call: Call, mask: Value | None, causal: bool, size: tuple[int, int]) -> Value | None:
    """Where a token may look, as bool [..., l, s], or None for everywhere."""
    if causal:
        # Two rows of numbers rather than a matrix, which would be kept in the program.
        rows, columns = (np.arange(each, dtype=np.float32) for each in size)
        graph = call.graph
        return graph.op("GreaterOrEqual", graph.constant(rows[:, None]), graph.constant(columns))
    return mask if mask is not None and mask.dtype == "bool" else None


def _added(call: Call, mask: Value | None, allowed: Value | None) -> Value | None:
    """What is added to the scores."""
    if allowed is not None:
        return call.graph.op("Where", allowed, call.tensor(0.0), call.tensor(NEVER))
    if mask is not None and mask.constant is not None and np.isneginf(mask.constant).all(axis=-1).any():
        raise call.refuse("a token that may look nowhere", "numbers above -inf", "mask by bool instead")
    return None if mask is None else call.tensor(mask)


def _may_be_blind(allowed: Value) -> bool:
    """Whether some token may have nothing to look at."""
    return allowed.constant is None or not bool(allowed.constant.any(axis=-1).all())


RULES: dict[str, Rule] = {
    "aten.scaled_dot_product_attention.default": attention,
}
