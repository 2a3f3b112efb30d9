"""A contact sheet: every distilled image of a bundle, enlarged, with its label under it.

Images are arranged by the class of their strongest label.  One grey band shows as grey, three bands as red, green and
blue, of more bands the first three, of two the first.  Distilled values may lie far outside of the sensor's own range,
so each band is stretched over the whole sheet: from its 0.5th to its 99.5th percentile, the same for every image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fieldkit.bundle.contents import Bundle
from fieldkit.errors import UsageError

CELL = 104
GAP = 12
MARGIN = 24
HEADER = 74
TITLE_SIZE, TEXT_SIZE, CAPTION_SIZE = 24, 14, 13
MAX_COLUMNS = 12
MIN_WIDTH = 560
PAPER, INK, FAINT = (255, 255, 255), (24, 28, 34), (104, 112, 122)
STRETCH = (0.5, 99.5)
HARD = 0.995
MAX_PIXELS = 100_000_000

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def load() -> None:
    """Load what drawing opens files for: image formats, the font, parts of numpy that are imported when first used."""
    Image.preinit()
    _font(TEXT_SIZE)
    as_rgb(np.zeros((1, 1, 2, 2), np.float32))


def encoded(bundle: Bundle, kind: str) -> bytes:
    """The sheet as an image file of this format, such as "PNG"."""
    content = io.BytesIO()
    contact_sheet(bundle).save(content, kind)
    return content.getvalue()


def contact_sheet(bundle: Bundle) -> Image.Image:
    """The sheet as an RGB image.  Raises UsageError for more images than a sheet has room for."""
    labels = bundle.labels.astype(np.float32)
    order = np.lexsort((-labels.max(1), labels.argmax(1)))
    tiles = as_rgb(bundle.images.decode())
    columns = _columns(labels.argmax(1))
    side = _side(max(tiles.shape[1:3]))
    step_x, step_y = side + GAP, side + CAPTION_SIZE + 8 + GAP
    width = max(2 * MARGIN + columns * step_x - GAP, MIN_WIDTH)
    height = HEADER + MARGIN + -(-len(order) // columns) * step_y + MARGIN - GAP
    if width * height > MAX_PIXELS:
        most = MAX_PIXELS // width // step_y * columns
        raise UsageError("too many images for a contact sheet", found=len(order), expected=f"at most {most}")
    page = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(page)
    _draw_header(pen, bundle, width)
    for place, index in enumerate(order):
        left, top = MARGIN + place % columns * step_x, HEADER + MARGIN + place // columns * step_y
        page.paste(_enlarged(tiles[index], side), (left, top))
        _draw_caption(pen, caption(labels[index], bundle.manifest.classes), (left, top + side + 4), side)
    return page


def as_rgb(images: np.ndarray) -> np.ndarray:
    """float32 [n, c, h, w] in native counts as uint8 [n, h, w, 3], stretched as the module says."""
    bands = images[:, :3] if images.shape[1] >= 3 else np.repeat(images[:, :1], 3, axis=1)
    low, high = np.percentile(bands, STRETCH, axis=(0, 2, 3))
    span = np.maximum(high - low, 1e-6)[:, None, None]
    stretched = np.clip((bands - low[:, None, None]) / span, 0.0, 1.0)
    pixels: np.ndarray = np.rint(255 * stretched).astype(np.uint8)
    return pixels.transpose(0, 2, 3, 1)


def caption(label: np.ndarray, classes: Sequence[str]) -> tuple[str, str]:
    """The strongest class of a soft label and its weight, which is empty if the label is hard."""
    best = int(label.argmax())
    return classes[best], "" if label[best] >= HARD else f"{label[best]:.2f}"


def _side(pixels: int) -> int:
    """The side of a cell: a whole number of screen pixels for each pixel of a small image, so that all look alike."""
    return pixels * max(round(CELL / pixels), 1) if pixels <= CELL else CELL


def _draw_caption(pen: ImageDraw.ImageDraw, words: tuple[str, str], corner: tuple[int, int], width: int) -> None:
    """Class and weight, centred under an image; a long name gives way to its weight."""
    font = _font(CAPTION_SIZE)
    weight = f"  {words[1]}" if words[1] else ""
    room = width - pen.textlength(weight, font=font)
    name = _fitted(pen, words[0], font, room)
    left = corner[0] + (room - pen.textlength(name, font=font)) / 2
    pen.text((left, corner[1]), name, fill=INK, font=font)
    pen.text((left + pen.textlength(name, font=font), corner[1]), weight, fill=FAINT, font=font)


def _columns(tops: np.ndarray) -> int:
    """As many columns as each class has images, so that a row is a class, where that makes a handy sheet."""
    counts = np.bincount(tops)
    counts = counts[counts > 0]
    if counts.min() == counts.max() and 4 <= counts[0] <= MAX_COLUMNS:
        return int(counts[0])
    return min(len(tops), MAX_COLUMNS if len(tops) > 60 else 10)


def _draw_header(pen: ImageDraw.ImageDraw, bundle: Bundle, width: int) -> None:
    manifest = bundle.manifest
    title, text = _font(TITLE_SIZE), _font(TEXT_SIZE)
    channels, height, across = bundle.images.codes.shape[1:]
    line = (
        f"{_counted(len(bundle.images), 'distilled image')} of {_counted(len(manifest.classes), 'class')}, "
        f"{height} x {across} pixels, {_counted(channels, 'band')}, method {manifest.method.get('name', 'unknown')}"
    )
    pen.text((MARGIN, 18), _fitted(pen, manifest.name, title, width - 2 * MARGIN), fill=INK, font=title)
    pen.text((MARGIN, 50), _fitted(pen, line, text, width - 2 * MARGIN), fill=FAINT, font=text)
    pen.line((MARGIN, HEADER + 6, width - MARGIN, HEADER + 6), fill=(214, 218, 223))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def _enlarged(tile: np.ndarray, side: int) -> Image.Image:
    """One image in a square cell: pixels stay square and sharp; a large image shrinks smoothly."""
    image = Image.fromarray(tile)
    scale = side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (side, side), (236, 238, 241))
    cell.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return cell


def _fitted(pen: ImageDraw.ImageDraw, text: str, font: _Font, width: float) -> str:
    """``text``, cut with an ellipsis if it is wider than ``width`` pixels."""
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(f"{text}...", font=font) > width:
        text = text[:-1]
    return f"{text}..."


def _font(size: int) -> _Font:
    return ImageFont.load_default(size)
