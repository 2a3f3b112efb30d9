"""Rules of resizing images: nearest, linear and cubic, also with antialiasing, over one or two axes.

Whatever the mode, a resizing is linear and works along each axis by itself, so it is a product with a constant matrix
there.  What repeats each pixel a whole number of times is ONNX's Resize, and the sum over tiles on its way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fieldkit.hq.compiler.nodes import Array, Value
from fieldkit.hq.compiler.rules import separable, tiles
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.window import Pair

Made = tuple[Value, Pullback | None]

# The operators over two axes; those over one axis become them on images of one row.
KINDS = {
    "nearest": torch.ops.aten.upsample_nearest2d.default,
    "nearest_exact": torch.ops.aten._upsample_nearest_exact2d.default,
    "linear": torch.ops.aten.upsample_bilinear2d.default,
    "linear_aa": torch.ops.aten._upsample_bilinear2d_aa.default,
    "cubic": torch.ops.aten.upsample_bicubic2d.default,
    "cubic_aa": torch.ops.aten._upsample_bicubic2d_aa.default,
}


def _resize(kind: str, axes: int) -> Rule:
    """A rule for ATen's two forms of a kind of resizing of x [n, c, h, w] or [n, c, w].

    Both begin with the new size, which the result's description says; then ``align_corners``, where the kind has it;
    then one list of scales or, with an overload of no name, one scale an axis.  Either may be None.
    """
    aligned = "nearest" not in kind

    def rule(call: Call, x: Value, _size: Sequence[int] | None, *settings: Any) -> Made:
        options = settings[:1] if aligned else ()
        scales = settings[len(options) :]
        listed = list(scales[0] or [None] * axes) if call.operator.endswith(".vec") else list(scales)
        lengths = zip(x.shape[-axes:], call.shape[-axes:], listed, strict=True)
        maps = [_along(kind, (int(old), int(new)), options, scale) for old, new, scale in lengths]
        return _mapped(call, x, maps[0] if axes == 2 else np.eye(1), maps[-1])

    return rule


def _along(kind: str, lengths: Pair, options: Sequence[Any], scale: float | None) -> Array:
    """What the resizing does along one axis, float32[new, old]: torch's own answer, to the last coordinate."""
    old, new = lengths
    return separable.matrix(lambda images: KINDS[kind](images, [1, new], *options, None, scale), old)


def _mapped(call: Call, x: Value, rows: Array, columns: Array) -> Made:
    graph = call.graph
    images = graph.reshape(x, (*x.shape[:2], *([1] if x.rank == 3 else []), *x.shape[2:]))
    repeats = (_repeats(rows), _repeats(columns))
    # ONNX cannot tell that a Resize keeps a free batch as it is.
    tiled = all(repeats) and not isinstance(x.shape[0], str)
    y = tiles.spread(graph, images, repeats) if tiled else separable.apply(graph, images, rows, columns)

    def pullback(gradient: Value) -> tuple[Value]:
        dy = graph.reshape(gradient, y.shape)
        dx = tiles.summed(graph, dy, repeats) if tiled else separable.apply(graph, dy, rows.T, columns.T)
        return (graph.reshape(dx, x.shape),)

    return graph.reshape(y, call.shape), pullback


def _repeats(matrix: Array) -> int:
    """How often a resizing repeats each pixel, if it does nothing else; 0 if it does."""
    new, old = matrix.shape
    times = new // old
    same = times * old == new and np.array_equal(matrix, np.repeat(np.eye(old), times, axis=0))
    return times if same else 0


def _rules(name: str, kind: str, axes: int) -> dict[str, Rule]:
    return {f"aten.{name}.{overload}": _resize(kind, axes) for overload in ("default", "vec")}


RULES: dict[str, Rule] = {
    **_rules("upsample_nearest1d", "nearest", 1),
    **_rules("upsample_nearest2d", "nearest", 2),
    **_rules("_upsample_nearest_exact1d", "nearest_exact", 1),
    **_rules("_upsample_nearest_exact2d", "nearest_exact", 2),
    **_rules("upsample_linear1d", "linear", 1),
    **_rules("upsample_bilinear2d", "linear", 2),
    **_rules("_upsample_bilinear2d_aa", "linear_aa", 2),
    **_rules("upsample_bicubic2d", "cubic", 2),
    **_rules("_upsample_bicubic2d_aa", "cubic_aa", 2),
}
