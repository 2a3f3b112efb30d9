"""Rules of pooling over height and width."""

from __future__ import annotations

from collections.abc import Sequence

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

Made = tuple[Value, Pullback | None]


def average(
    call: Call,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil: bool = False,
    _count_padding: bool = True,
    _divisor: int | None = None,
) -> Made:
    size = _tiles(call, kernel, stride, padding, ceil)
    graph = call.graph
    y = graph.op("AveragePool", x, kernel_shape=list(size), strides=list(size))

    def pullback(dy: Value) -> tuple[Value]:
        share = graph.op("Mul", dy, graph.constant(1.0 / (size[0] * size[1]), "float32"))
        wanted = graph.constant([1, 1, 1, size[0], 1, size[1]], "int64")
        return (_untiled(call, graph.op("Expand", _tiled(call, share, (1, 1)), wanted), x),)

    return y, pullback


def maximum(
    call: Call,
    x: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil: bool = False,
) -> Made:
    """The gradient goes to the first of equal maxima, as torch does."""
    if any(each != 1 for each in dilation):
        raise call.refuse(f"dilation {list(dilation)}", "dilation 1", "pool without dilation")
    size = _tiles(call, kernel, stride, padding, ceil)
    graph = call.graph
    y = graph.op("MaxPool", x, kernel_shape=list(size), strides=list(size))

    def pullback(dy: Value) -> tuple[Value]:
        tiles = graph.op("Mul", _first_maximum(call, x, y, size), _tiled(call, dy, (1, 1)))
        return (_untiled(call, tiles, x),)

    return y, pullback


def _tiles(
    call: Call, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], ceil: bool
) -> tuple[int, int]:
    """The size of the tiles of a pooling whose windows do not overlap; other poolings are refused."""
    size = (int(kernel[0]), int(kernel[-1]))
    step = (int(stride[0]), int(stride[-1])) if stride else size
    if step != size or any(padding) or ceil:
        found = f"kernel {size}, stride {step}, padding {tuple(padding)}, ceil_mode {ceil}"
        raise call.refuse(found, "stride equal to the kernel and no padding", "pool without overlap or padding")
    return size


def _tiled(call: Call, x: Value, size: tuple[int, int]) -> Value:
    """[n, c, h, w] -> [n, c, h', kh, w', kw]; what a last incomplete tile would hold is cut off."""
    graph = call.graph
    rows, columns = x.size(2) // size[0], x.size(3) // size[1]
    cut = graph.pad(x, [2, 3], [0, 0], [rows * size[0] - x.size(2), columns * size[1] - x.size(3)])
    return graph.reshape(cut, (*x.shape[:2], rows, size[0], columns, size[1]))


def _untiled(call: Call, tiles: Value, like: Value) -> Value:
    """The inverse of ``_tiled``, with zeros where it cut."""
    graph = call.graph
    height, width = tiles.size(2) * tiles.size(3), tiles.size(4) * tiles.size(5)
    joined = graph.reshape(tiles, (*like.shape[:2], height, width))
    missing = [like.size(2) - height, like.size(3) - width]
    return graph.pad(joined, [2, 3], [0, 0], missing)


def _first_maximum(call: Call, x: Value, y: Value, size: tuple[int, int]) -> Value:
    """1 at the first maximum of each tile (by rows, then columns) and 0 elsewhere: [n, c, h', kh, w', kw].

    Built from comparisons with the places before it, because a scatter runs on one core.
    """
    graph = call.graph
    tiles = _tiled(call, x, size)
    best = graph.cast(graph.op("Equal", tiles, _tiled(call, y, (1, 1))), "float32")
    taken: Value | None = None
    rows = []
    for row in range(size[0]):
        band = graph.slice(best, 3, row, row + 1)
        places = []
        for column in range(size[1]):
            here = graph.slice(band, 5, column, column + 1)
            if taken is not None:
                free = graph.op("Sub", graph.constant(1.0, "float32"), taken)
                here = graph.op("Mul", here, free)
            places.append(here)
            taken = here if taken is None else graph.op("Add", taken, here)
        rows.append(graph.op("Concat", *places, axis=5))
    return graph.op("Concat", *rows, axis=3)


RULES: dict[str, Rule] = {
    "aten.avg_pool2d.default": average,
    "aten.max_pool2d.default": maximum,
}
