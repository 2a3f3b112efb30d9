"""Rules that resample images.  Forward only: nothing before them trains in a classifier's train program."""

from __future__ import annotations

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

MODES = ("linear", "nearest", "cubic")
PADDINGS = ("zeros", "border", "reflection")


def grid_sample(
    call: Call, x: Value, grid: Value, mode: int, padding: int, align_corners: bool
) -> tuple[Value, Pullback | None]:
    """x [n, c, h, w] read at the places grid [n, h, w, 2], x before y from -1 to 1; of images only: no way back."""
    if x.trains or grid.trains:
        raise call.refuse("an input that depends on trained weights", "images", "sample before the first layer")
    if x.rank != 4:
        raise call.refuse(f"an input of {x.rank} axes", "4 axes", "sample images [n, c, h, w]")
    settings = {"mode": MODES[mode], "padding_mode": PADDINGS[padding], "align_corners": int(align_corners)}
    return call.graph.op("GridSample", x, grid, **settings), None


RULES: dict[str, Rule] = {
    "aten.grid_sampler.default": grid_sample,
    "aten.grid_sampler_2d.default": grid_sample,
}
