"""Rules of what leaves the numbers as they are: changes of dtype, copies, and where a gradient stops."""

from __future__ import annotations

from typing import Any

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

Made = tuple[Value, Pullback | None]


def to_dtype(call: Call, x: Value, *_settings: Any) -> Made:
    """x in the dtype of the result; the gradient comes back in that of x."""
    floats = x.dtype.startswith("float") and call.dtype.startswith("float")
    return call.tensor(x), (lambda dy: (call.graph.cast(dy, x.dtype),)) if floats else None


def unchanged(_call: Call, x: Value, *_settings: Any) -> Made:
    """x itself, where torch makes a copy or another view of the same numbers."""
    return x, lambda dy: (dy,)


def detach(_call: Call, x: Value) -> Made:
    """x without a way back."""
    return x, None


RULES: dict[str, Rule] = {
    "aten.to.dtype": to_dtype,
    "aten.to.dtype_layout": to_dtype,
    "aten.to.device": to_dtype,
    "aten.type_as.default": to_dtype,
    "aten._to_copy.default": to_dtype,
    "aten.clone.default": unchanged,
    "aten.contiguous.default": unchanged,
    "aten.alias.default": unchanged,
    "aten.lift_fresh_copy.default": unchanged,
    "aten.detach.default": detach,
}
