"""TIFF images of many bands, or of 16 bits per colour: what pillow refuses, or reads with loss.

TIFF 6.0 (Adobe, 1992), its supplement on Deflate (2002) and BigTIFF: unsigned samples of 8 or 16 bits, in strips or
tiles, interleaved or in planes, as they are or compressed, with or without horizontal differencing.  Everything else is
refused by name.  Grey, palette and 8 bit colour images are pillow's.

What cannot be read raises ValueError, whose message says what was found, as the rest of "unreadable image: ...".
"""

from __future__ import annotations

import io
import itertools
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

# What an image may take in memory.
MAX_BYTES = 1 << 30
MAX_PAGES = 1000
MAX_SAMPLES = 65535

SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 254, 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANAR, PREDICTOR = 273, 274, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, EXTRA, SAMPLE_FORMAT = 322, 323, 324, 325, 338, 339
_DEFAULTS = {SUBFILE: 0, BITS: 1, COMPRESSION: 1, FILL_ORDER: 1, ORIENTATION: 1, SAMPLES: 1, STRIP_ROWS: 2**32 - 1}
_DEFAULTS |= {PLANAR: 1, PREDICTOR: 1, SAMPLE_FORMAT: 1, PHOTOMETRIC: 1}
_WANTED = {
    *(*_DEFAULTS, WIDTH, HEIGHT, EXTRA),
    *(STRIP_OFFSETS, STRIP_BYTES, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES),
}
# struct's letters for the types of whole numbers: BYTE, SHORT, LONG, IFD, LONG8, IFD8.
_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}

PLAIN, DEFLATE = 1, (8, 32946)
# LZW, PackBits, LZMA and Zstandard.  libtiff, inside pillow, undoes them.
_THROUGH_PILLOW = (5, 32773, 34925, 50000)
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
ALPHAS = (1, 2)
# By orientation, from 1: whether rows and columns change places, and then whether rows and columns are reversed.
_TURNS = [(0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)]


@dataclass(frozen=True)
class Page:
    """One image of a file: its place among all, the byte order "<" or ">", and the tags that matter here."""

    index: int
    order: str
    tags: Mapping[int, tuple[int, ...]]

    def one(self, tag: int) -> int:
        """The first value of a tag, or what TIFF says where there is none."""
        values = self.tags.get(tag)
        if values:
            return values[0]
        if tag not in _DEFAULTS:
            raise ValueError(f"a TIFF without the tag {tag}")
        return _DEFAULTS[tag]

    def each(self, tag: int) -> tuple[int, ...]:
        """A tag's value for each sample of a pixel."""
        values, count = self.tags.get(tag) or (_DEFAULTS[tag],), self.one(SAMPLES)
        if count > MAX_SAMPLES:
            raise ValueError(f"a TIFF of {count:,} samples a pixel; at most {MAX_SAMPLES:,}")
        return values if len(values) == count else values[:1] * count

    @property
    def is_pillows(self) -> bool:
        """Whether pillow reads every band of it as it is, or refuses it."""
        samples, bits, photometric = self.one(SAMPLES), self.each(BITS), self.one(PHOTOMETRIC)
        if samples == 1 or photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB):
            return True
        extra = samples - (3 if photometric == RGB else 1)
        # pillow takes a further band for padding unless it is said to be alpha.
        alpha = extra == 1 and self.tags.get(EXTRA, ()) in ((1,), (2,))
        return set(bits) == {8} and (extra == 0 or alpha)


def is_tiff(data: bytes) -> bool:
    """Whether the bytes of a file begin like a TIFF."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def pages(data: bytes) -> list[Page]:
    """The images in a file, without the smaller copies of them that some writers add."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count, offset, size = ("Q", "Q", 20) if big else ("H", "I", 12)
    (place,) = _unpack(order + offset, data, 8 if big else 4)
    found: list[Page] = []
    seen: set[int] = set()
    while place:
        if place in seen or len(seen) == MAX_PAGES:
            raise ValueError(f"a TIFF whose pages run in a circle, or more than {MAX_PAGES}")
        seen.add(place)
        (entries,) = _unpack(order + count, data, place)
        first = place + struct.calcsize("=" + count)
        if first + entries * size > len(data):
            raise ValueError("a TIFF that ends early")
        found.append(
            Page(len(found), order, dict(_tags(data, order, offset, range(first, first + entries * size, size))))
        )
        (place,) = _unpack(order + offset, data, first + entries * size)
    return [page for page in found if not page.one(SUBFILE) & 1]


def decode(data: bytes, page: Page) -> tuple[np.ndarray, np.ndarray | None]:
    """The bands of an image, uint8 | uint16 [c, h, w], and apart from them its alpha [h, w], if it has one."""
    _check(page)
    bands = _oriented(_assembled(data, page), page.one(ORIENTATION))
    extra = page.tags.get(EXTRA, ())
    alphas = [len(bands) - len(extra) + place for place, kind in enumerate(extra) if kind in ALPHAS]
    if len(extra) >= len(bands) or not alphas:
        return np.ascontiguousarray(bands), None
    return np.delete(bands, alphas, axis=0), bands[alphas].min(axis=0)


def _unpack(form: str, data: bytes, place: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(form, data, place)
    except struct.error as error:
        raise ValueError("a TIFF that ends early") from error


def _tags(data: bytes, order: str, offset: str, places: range) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The wanted tags of a directory whose entries are at these places."""
    room = struct.calcsize("=" + offset)
    for place in places:
        tag, kind, count = _unpack(f"{order}HH{offset}", data, place)
        if tag not in _WANTED or kind not in _TYPES:
            continue
        value = place + 4 + room
        if count * struct.calcsize("=" + _TYPES[kind]) > room:
            (value,) = _unpack(order + offset, data, value)
        # Before struct makes room for them.
        if count > len(data):
            raise ValueError("a TIFF that ends early")
        yield tag, _unpack(f"{order}{count}{_TYPES[kind]}", data, value)


def _check(page: Page) -> None:
    """Raise ValueError that names what is not as this module reads it."""
    bits, formats = page.each(BITS), page.each(SAMPLE_FORMAT)
    samples, compression = page.one(SAMPLES), page.one(COMPRESSION)
    faults = {
        f"samples of {', '.join(map(str, sorted(set(bits))))} bits": set(bits) not in ({8}, {16}),
        "signed or floating-point samples": set(formats) != {1},
        "white as 0": page.one(PHOTOMETRIC) == WHITE_IS_ZERO,
        f"compression {compression}": compression not in (PLAIN, *DEFLATE, *_THROUGH_PILLOW),
        f"predictor {page.one(PREDICTOR)}": page.one(PREDICTOR) not in (1, 2),
        "reversed bits": page.one(FILL_ORDER) != 1,
        "an unknown orientation": not 1 <= page.one(ORIENTATION) <= len(_TURNS),
        "an unknown order of samples": page.one(PLANAR) not in (1, 2),
    }
    found = [fault for fault, there in faults.items() if there]
    if found:
        raise ValueError(f"a TIFF of {samples} samples with {' and '.join(found)}")


def _assembled(data: bytes, page: Page) -> np.ndarray:
    """All samples [c, h, w], from the strips or tiles that they are stored in."""
    width, height, samples = page.one(WIDTH), page.one(HEIGHT), page.one(SAMPLES)
    planes, depth = (samples, 1) if page.one(PLANAR) == 2 else (1, samples)
    dtype = np.dtype(f"{page.order}u{page.each(BITS)[0] // 8}")
    tiled = TILE_WIDTH in page.tags
    across = page.one(TILE_WIDTH) if tiled else width
    down = page.one(TILE_HEIGHT) if tiled else min(page.one(STRIP_ROWS), height)
    if min(width, height, samples, across, down) < 1:
        raise ValueError("a TIFF without pixels")
    lefts, tops = range(0, width, across), range(0, height, down)
    tile_bytes = across * down * depth * dtype.itemsize
    places = page.tags.get(TILE_OFFSETS if tiled else STRIP_OFFSETS, ())
    sizes = page.tags.get(TILE_BYTES if tiled else STRIP_BYTES, ())
    count = planes * len(lefts) * len(tops)
    if count * tile_bytes > MAX_BYTES:
        raise ValueError(f"a TIFF of {width}x{height} pixels with {samples} samples, more than {MAX_BYTES:,} bytes")
    if not len(places) == len(sizes) == count:
        raise ValueError(f"a TIFF with {len(places)} strips or tiles where its size makes {count}")
    found = np.empty((planes, height, width, depth), dtype.newbyteorder("="))
    grid = itertools.product(range(planes), tops, lefts)
    for (plane, top, left), place, size in zip(grid, places, sizes, strict=True):
        # Tiles are filled up at the image's right and lower edge, strips are not.
        rows = down if tiled else min(down, height - top)
        shape = (rows, across, depth)
        raw = _decompressed(data[place : place + size], page.one(COMPRESSION), shape, dtype.itemsize)
        block = np.frombuffer(raw, dtype).reshape(shape)
        if page.one(PREDICTOR) == 2:
            block = np.cumsum(block, axis=1, dtype=found.dtype)
        found[plane, top : top + down, left : left + across] = block[: height - top, : width - left]
    return found.transpose(0, 3, 1, 2).reshape(samples, height, width)


def _decompressed(stored: bytes, compression: int, shape: tuple[int, int, int], itemsize: int) -> bytes:
    """The bytes of a strip or tile of [rows, columns, samples]."""
    size = math.prod(shape) * itemsize
    if compression == PLAIN:
        raw = stored[:size]
    elif compression in DEFLATE:
        raw = zlib.decompressobj().decompress(stored, size)
    else:
        raw = _through_pillow(stored, compression, shape[0], size // shape[0])
    if len(raw) != size:
        raise ValueError("a TIFF with a strip or tile that ends early")
    return raw


def _through_pillow(stored: bytes, compression: int, height: int, width: int) -> bytes:
    """Decompressed bytes, ``height`` rows of ``width`` each: pillow is shown them as a grey image in one strip."""
    tags = {WIDTH: width, HEIGHT: height, BITS: 8, COMPRESSION: compression, PHOTOMETRIC: BLACK_IS_ZERO}
    tags |= {STRIP_OFFSETS: 8 + 2 + 12 * 9 + 4, SAMPLES: 1, STRIP_ROWS: height, STRIP_BYTES: len(stored)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = struct.pack("<4sIH", b"II*\0", 8, len(tags)) + entries + bytes(4)
    with Image.open(io.BytesIO(header + stored), formats=["TIFF"]) as image:
        return image.tobytes()


def _oriented(bands: np.ndarray, orientation: int) -> np.ndarray:
    """``bands`` [c, h, w] the way up that they are to be looked at."""
    transposed, rows, columns = _TURNS[orientation - 1]
    turned = bands.swapaxes(1, 2) if transposed else bands
    return turned[:, :: -1 if rows else 1, :: -1 if columns else 1]
