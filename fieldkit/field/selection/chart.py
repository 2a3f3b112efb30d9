"""The recipes of a selection as a picture: accuracy over latency, drawn with pillow, for a device has no matplotlib.

Each recipe is a disc whose area goes with its file's size, with the standard error of its accuracy as a bar.  Those of
the Pareto set are filled and joined by steps where accuracy and latency alone put them there.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fieldkit.bundle.atomic import write_atomically
from fieldkit.errors import UsageError
from fieldkit.field.measurement.ranking import pareto, standard_error
from fieldkit.field.selection.candidates import Candidate
from fieldkit.field.selection.selection import Selection

WIDTH, HEIGHT = 960, 640
LEFT, RIGHT, TOP, BOTTOM = 92, 40, 84, 76
# Drawn larger and shrunk, since pillow's lines have no soft edges.
FINE = 3
LARGEST, SMALLEST = 26.0, 6.0
"""Radii of discs, in pixels."""
PAPER, INK, FAINT, RULE = (255, 255, 255), (24, 28, 34), (104, 112, 122), (226, 229, 233)
FRONT, OTHER, BEST = (31, 119, 180), (160, 168, 178), (200, 60, 40)

_Point = tuple[float, float]


def check_chart_name(path: Path) -> None:
    """Raise UsageError unless ``path`` is the name of a PNG file."""
    if path.suffix.lower() != ".png":
        raise UsageError("no image format of this name", where=path, expected=".png")


def save_chart(path: Path, selection: Selection, title: str) -> None:
    """Write the chart as a PNG file, whole or not at all."""
    check_chart_name(path)
    content = io.BytesIO()
    draw_chart(selection, title).save(content, "PNG")
    write_atomically(path, content.getvalue())


@dataclass(frozen=True)
class _Axes:
    """Milliseconds on a logarithmic axis, and percent, to pixels of the fine picture."""

    fastest: float
    slowest: float
    lowest: float
    highest: float

    @classmethod
    def around(cls, shown: Sequence[Candidate], samples: int) -> _Axes:
        """Axes with room for every disc, bar and name."""
        times = [1e3 * each.cost.latency for each in shown]
        bars = [standard_error(each.accuracy or 0.0, samples) for each in shown]
        tops = [100 * ((each.accuracy or 0.0) + bar) for each, bar in zip(shown, bars, strict=True)]
        lows = [100 * ((each.accuracy or 0.0) - bar) for each, bar in zip(shown, bars, strict=True)]
        spare = max(max(tops) - min(lows), 2.0) * 0.1
        return cls(
            min(times) / 1.6, max(times) * 1.9, max(min(lows) - spare, 0.0), min(max(tops) + spare, 100.0 + spare / 2)
        )

    def x(self, milliseconds: float) -> float:
        share = math.log(milliseconds / self.fastest) / math.log(self.slowest / self.fastest)
        return FINE * (LEFT + share * (WIDTH - LEFT - RIGHT))

    def y(self, percent: float) -> float:
        share = (percent - self.lowest) / (self.highest - self.lowest)
        return FINE * (HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM))

    def place(self, candidate: Candidate) -> _Point:
        return self.x(1e3 * candidate.cost.latency), self.y(100 * (candidate.accuracy or 0.0))


def draw_chart(selection: Selection, title: str) -> Image.Image:
    """The chart as an RGB image; recipes that were not trained are not on it."""
    shown = [each for each in selection.candidates if each.accuracy is not None]
    axes = _Axes.around(shown, selection.samples)
    page = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), PAPER)
    pen = ImageDraw.Draw(page)
    _draw_frame(pen, axes, title, f"accuracy on {selection.samples} images ({selection.source}), %")
    _draw_front(pen, axes, shown)
    largest = max(each.cost.size for each in shown)
    # Large discs first, so that small ones are not hidden.
    for each in sorted(shown, key=lambda each: -each.cost.size):
        _draw_disc(pen, axes.place(each), _radius(each.cost.size, largest), _colour(each, selection))
        _draw_bar(pen, axes, each, selection.samples)
    _draw_legend(pen)
    _draw_names(pen, axes, selection, shown, largest)
    return page.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def ticks(low: float, high: float, logarithmic: bool = False) -> list[float]:
    """Round numbers from ``low`` to ``high``: at equal steps, or for a logarithmic axis 1, 2, 5, 10 and so on."""
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    else:
        rough = (high - low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        found = [step * place for place in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return [each for each in found if low <= each <= high]


def _draw_frame(pen: ImageDraw.ImageDraw, axes: _Axes, title: str, upright: str) -> None:
    """Title, axes, rules and their numbers."""
    left, right = FINE * LEFT, FINE * (WIDTH - RIGHT)
    top, bottom = FINE * TOP, FINE * (HEIGHT - BOTTOM)
    for value in ticks(axes.lowest, min(axes.highest, 100.0)):
        pen.line((left, axes.y(value), right, axes.y(value)), fill=RULE, width=FINE)
        pen.text((left - 10 * FINE, axes.y(value)), f"{value:g}", fill=FAINT, font=_font(14), anchor="rm")
    for value in ticks(axes.fastest, axes.slowest, logarithmic=True):
        pen.line((axes.x(value), top, axes.x(value), bottom), fill=RULE, width=FINE)
        pen.text((axes.x(value), bottom + 10 * FINE), f"{value:g}", fill=FAINT, font=_font(14), anchor="mt")
    pen.line((left, top, left, bottom, right, bottom), fill=INK, width=FINE)
    pen.text((left, 22 * FINE), title, fill=INK, font=_font(22))
    pen.text((left, 54 * FINE), upright, fill=FAINT, font=_font(14))
    middle = (left + right) / 2
    pen.text(
        (middle, (HEIGHT - 34) * FINE),
        "latency of one image on this device, ms",
        fill=FAINT,
        font=_font(14),
        anchor="mt",
    )


def _draw_front(pen: ImageDraw.ImageDraw, axes: _Axes, shown: Sequence[Candidate]) -> None:
    """Steps along the best accuracy that each latency can have."""
    front = pareto({each.recipe: (-(each.accuracy or 0.0), each.cost.latency) for each in shown})
    corners = sorted(axes.place(each) for each in shown if each.recipe in front)
    for (x, y), (next_x, next_y) in itertools.pairwise(corners):
        pen.line((x, y, next_x, y, next_x, next_y), fill=FRONT, width=2 * FINE)


def _draw_bar(pen: ImageDraw.ImageDraw, axes: _Axes, candidate: Candidate, samples: int) -> None:
    accuracy = candidate.accuracy or 0.0
    error = standard_error(accuracy, samples)
    x, low, high = axes.place(candidate)[0], axes.y(100 * (accuracy - error)), axes.y(100 * (accuracy + error))
    pen.line((x, low, x, high), fill=INK, width=FINE)
    for end in (low, high):
        pen.line((x - 5 * FINE, end, x + 5 * FINE, end), fill=INK, width=FINE)


def _draw_disc(pen: ImageDraw.ImageDraw, place: _Point, radius: float, colour: tuple[int, int, int]) -> None:
    x, y = place
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=PAPER, width=FINE)


def _draw_legend(pen: ImageDraw.ImageDraw) -> None:
    """What the colours and the areas mean, from right to left."""
    right, y = float(FINE * (WIDTH - RIGHT)), float(FINE * 62)
    meanings = [("area: size of the file", None), ("other", OTHER), ("Pareto set", FRONT), ("winner", BEST)]
    for words, colour in meanings:
        pen.text((right, y), words, fill=FAINT, font=_font(14), anchor="rm")
        right -= pen.textlength(words, font=_font(14)) + 12 * FINE
        if colour is not None:
            _draw_disc(pen, (right, y), 6 * FINE, colour)
            right -= 8 * FINE
        right -= 14 * FINE


def _draw_names(
    pen: ImageDraw.ImageDraw, axes: _Axes, selection: Selection, shown: Sequence[Candidate], largest: int
) -> None:
    """Each recipe's name and size beside its disc, moved down where it would cover another's."""
    taken: list[tuple[float, float, float, float]] = []
    for each in sorted(shown, key=lambda each: -(each.accuracy or 0.0)):
        cut = "" if each.steps == each.full else f", {each.steps} of {each.full} steps"
        words = f"{each.recipe}\n{_size(each.cost.size)}{cut}"
        x, y = axes.place(each)
        away = _radius(each.cost.size, largest) + 8 * FINE
        width = pen.multiline_textbbox((0, 0), words, font=_font(13), spacing=3 * FINE)[2]
        x = x + away if x + away + width < FINE * (WIDTH - 6) else x - away - width
        # Below the steps, which leave a disc to the right.
        y += 5 * FINE
        while any(_meet(_box(pen, (x, y), words), other) for other in taken):
            y += 4 * FINE
        box = _box(pen, (x, y), words)
        taken.append(box)
        pen.rectangle(box, fill=PAPER)
        pen.multiline_text((x, y), words, fill=INK, font=_font(13), spacing=3 * FINE)


def _box(pen: ImageDraw.ImageDraw, place: _Point, words: str) -> tuple[float, float, float, float]:
    """Where these words would stand, with a little paper around."""
    left, top, right, bottom = pen.multiline_textbbox(place, words, font=_font(13), spacing=3 * FINE)
    return left - 2 * FINE, top - 2 * FINE, right + 2 * FINE, bottom + 2 * FINE


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _colour(candidate: Candidate, selection: Selection) -> tuple[int, int, int]:
    if candidate is selection.winner:
        return BEST
    return FRONT if candidate.efficient else OTHER


def _radius(size: int, largest: int) -> float:
    return FINE * max(LARGEST * math.sqrt(size / largest), SMALLEST)


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1_000_000 else f"{count / 1e3:.3g} kB"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FINE * size)
