"""TIFF images of many bands: what was written comes back, whatever its storage; anything else is refused by name."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldkit.errors import DataError
from fieldkit.field.images import tiff
from fieldkit.field.images.imagery import decode_image, read_image

DATA = Path(os.environ.get("FIELDKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
LZW, PACKBITS, DEFLATE = 5, 32773, 8
NAMES = {LZW: "tiff_lzw", PACKBITS: "packbits"}


@dataclass(frozen=True)
class Storage:
    """How a TIFF stores its samples; ``tags`` are added, or take the place of the usual ones."""

    order: str = "<"
    big: bool = False
    planar: bool = False
    compression: int = 1
    predictor: bool = False
    tile: tuple[int, int] | None = None
    rows: int = 3
    tags: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def packed(raw: bytes, compression: int) -> bytes:
    """A strip's bytes, compressed by zlib or by libtiff through pillow."""
    if compression == 1:
        return raw
    if compression == DEFLATE:
        return zlib.compress(raw)
    whole = io.BytesIO()
    Image.frombytes("L", (len(raw), 1), raw).save(whole, "TIFF", compression=NAMES[compression])
    with Image.open(whole) as image:
        (place,), (size,) = image.tag_v2[273], image.tag_v2[279]
    return whole.getvalue()[place : place + size]


def pieces(plane: np.ndarray, storage: Storage) -> list[bytes]:
    """The strips or tiles of samples [h, w, s]."""
    height, width, _ = plane.shape
    down, across = storage.tile or (storage.rows, width)
    found = []
    for top in range(0, height, down):
        for left in range(0, width, across):
            block = plane[top : top + down, left : left + across]
            if storage.tile:
                short = ((0, down - block.shape[0]), (0, across - block.shape[1]), (0, 0))
                block = np.pad(block, short, mode="edge")
            if storage.predictor:
                block = np.diff(block, axis=1, prepend=np.zeros_like(block[:, :1]))
            raw = block.astype(block.dtype.newbyteorder(storage.order)).tobytes()
            found.append(packed(raw, storage.compression))
    return found


def directory(storage: Storage, tags: Mapping[int, tuple[int, ...]], place: int, following: int) -> bytes:
    """A directory at ``place`` in the file, with its values behind it."""
    count, offset, size, room = ("Q", "Q", 20, 8) if storage.big else ("H", "I", 12, 4)
    kind, letter = (16, "Q") if storage.big else (4, "I")
    start = place + struct.calcsize("=" + count) + size * len(tags) + room
    entries, behind = b"", b""
    for tag, values in sorted(tags.items()):
        content = struct.pack(f"{storage.order}{len(values)}{letter}", *values)
        if len(content) > room:
            content, behind = struct.pack(storage.order + offset, start + len(behind)), behind + content
        entries += struct.pack(f"{storage.order}HH{offset}", tag, kind, len(values)) + content.ljust(room, b"\0")
    head = struct.pack(storage.order + count, len(tags))
    return head + entries + struct.pack(storage.order + offset, following) + behind


def written(bands: np.ndarray, storage: Storage = Storage()) -> bytes:
    """A TIFF of [c, h, w], made by hand."""
    samples, height, width = bands.shape
    planes = [band[..., None] for band in bands] if storage.planar else [bands.transpose(1, 2, 0)]
    stored = [piece for plane in planes for piece in pieces(plane, storage)]
    head = 16 if storage.big else 8
    places = tuple(head + sum(map(len, stored[:index])) for index in range(len(stored)))
    tags: dict[int, tuple[int, ...]] = {256: (width,), 257: (height,), 258: (8 * bands.itemsize,) * samples}
    tags |= {259: (storage.compression,), 262: (1,), 277: (samples,), 284: (1 + storage.planar,)}
    tags |= {317: (1 + storage.predictor,), 338: (0,) * (samples - 1)}
    if storage.tile:
        tags |= {322: storage.tile[1:], 323: storage.tile[:1], 324: places, 325: tuple(map(len, stored))}
    else:
        tags |= {273: places, 278: (storage.rows,), 279: tuple(map(len, stored))}
    end = head + sum(map(len, stored))
    magic = {"<": b"II", ">": b"MM"}[storage.order]
    start = (
        struct.pack(storage.order + "HHHQ", 43, 8, 0, end)
        if storage.big
        else struct.pack(storage.order + "HI", 42, end)
    )
    return magic + start + b"".join(stored) + directory(storage, tags | dict(storage.tags), end, 0)


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


STORAGES = st.builds(
    Storage,
    order=st.sampled_from("<>"),
    big=st.booleans(),
    planar=st.booleans(),
    compression=st.sampled_from([1, DEFLATE, LZW, PACKBITS]),
    predictor=st.booleans(),
    tile=st.none() | st.tuples(st.sampled_from([2, 16]), st.sampled_from([3, 16])),
    rows=st.integers(1, 20),
)


@settings(max_examples=150)
@given(
    storage=STORAGES,
    shape=st.tuples(st.integers(5, 13), st.integers(1, 19), st.integers(1, 19)),
    dtype=st.sampled_from(["uint8", "uint16"]),
)
def test_what_was_written_comes_back(storage: Storage, shape: tuple[int, int, int], dtype: str) -> None:
    bands = noise(*shape, dtype=dtype)
    found = decode_image(written(bands, storage), "a.tif")
    assert found.dtype == bands.dtype
    assert found.flags.c_contiguous
    assert np.array_equal(found, bands)


@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate", "tiff_lzw", "packbits"])
@pytest.mark.parametrize("predictor", [1, 2])
def test_colour_is_read_as_pillow_reads_it(compression: str | None, predictor: int) -> None:
    pixels = noise(40, 30, 3)
    file = io.BytesIO()
    options = {} if compression in (None, "packbits") else {"tiffinfo": {317: predictor}}
    Image.fromarray(pixels).save(file, "TIFF", compression=compression, **options)
    data = file.getvalue()
    (page,) = tiff.pages(data)
    assert page.is_pillows
    bands, alpha = tiff.decode(data, page)
    assert alpha is None
    assert np.array_equal(bands, decode_image(data, "a.tif"))
    assert np.array_equal(bands, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize(("samples", "photometric"), [(2, 1), (4, 2), (4, 1), (5, 2)])
def test_no_band_is_dropped(samples: int, photometric: int) -> None:
    bands = noise(samples, 4, 5)
    assert np.array_equal(decode_image(written(bands, Storage(tags={262: (photometric,)})), "a.tif"), bands)


@pytest.mark.parametrize("extra", [1, 2])
def test_alpha_of_sixteen_bits_is_dropped_only_if_it_hides_nothing(extra: int) -> None:
    bands = noise(4, 4, 5, dtype="uint16")
    bands[3] = 65535
    storage = Storage(tags={262: (2,), 338: (extra,)})
    assert np.array_equal(decode_image(written(bands, storage), "a.tif"), bands[:3])
    bands[3, 1, 1] = 65534
    with pytest.raises(DataError, match="transparent"):
        decode_image(written(bands, storage), "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(orientation: int) -> None:
    pixels = noise(4, 7, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", tiffinfo={274: orientation})
    by_pillow = decode_image(file.getvalue(), "a.tif")
    bands = np.concatenate([pixels.transpose(2, 0, 1)] * 2)
    assert np.array_equal(decode_image(written(bands, Storage(tags={274: (orientation,)})), "b.tif")[:3], by_pillow)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({339: (3,) * 5}, "signed or floating-point"),
        ({258: (32,) * 5}, "samples of 32 bits"),
        ({258: (8, 8, 8, 8, 16)}, "samples of 8, 16 bits"),
        ({259: (7,)}, "compression 7"),
        ({266: (2,)}, "reversed bits"),
        ({262: (0,)}, "white as 0"),
        ({317: (3,)}, "predictor 3"),
        ({274: (9,)}, "unknown orientation"),
        ({284: (3,)}, "unknown order of samples"),
        ({256: (0,)}, "without pixels"),
        ({278: (0,)}, "without pixels"),
        ({257: (400,)}, "strips or tiles where its size makes"),
        ({256: (1 << 30,)}, "more than 1,073,741,824 bytes"),
        ({279: (1, 1)}, "ends early"),
        ({273: (1 << 30, 1 << 30)}, "ends early"),
        ({277: (9,)}, "strip or tile that ends early"),
        ({277: (1 << 31,)}, "2,147,483,648 samples a pixel"),
    ],
)
def test_what_is_not_read_is_named(tags: Mapping[int, tuple[int, ...]], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_image(written(noise(5, 6, 4), Storage(tags=tags)), "a.tif")


def chained(*subfiles: int, circle: bool = False) -> bytes:
    """A TIFF with a directory for each of ``subfiles``, all of the same samples."""
    whole = written(noise(5, 6, 4))
    (first,) = struct.unpack_from("<I", whole, 4)
    plain = tiff.pages(whole)[0].tags
    data, places = whole[:first], []
    for subfile in subfiles:
        places.append(len(data))
        size = len(directory(Storage(), plain | {254: (subfile,)}, 0, 0))
        following = len(data) + size if len(places) < len(subfiles) else (places[0] if circle else 0)
        data += directory(Storage(), plain | {254: (subfile,)}, len(data), following)
    return data[:4] + struct.pack("<I", places[0]) + data[8:]


def test_overviews_are_no_pages() -> None:
    assert np.array_equal(decode_image(chained(0, 1, 1), "a.tif"), noise(5, 6, 4))
    with pytest.raises(DataError, match="2 pages"):
        decode_image(chained(0, 0), "a.tif")
    with pytest.raises(DataError, match="run in a circle"):
        decode_image(chained(0, 1, circle=True), "a.tif")


def test_the_image_is_read_where_an_overview_comes_first() -> None:
    small, whole = (Image.fromarray(noise(side, side, 3, seed=side)) for side in (4, 8))
    file = io.BytesIO()
    small.encoderinfo = {"tiffinfo": {254: 1}}
    small.save(file, "TIFF", save_all=True, append_images=[whole], tiffinfo={254: 1})
    data = bytearray(file.getvalue())
    # pillow writes the same tags for both: take the mark off the second.
    pages = [place for place in range(len(data)) if data[place : place + 4] == struct.pack("<HH", 254, 4)]
    data[pages[1] + 8 : pages[1] + 12] = bytes(4)
    assert decode_image(bytes(data), "a.tif").shape == (3, 8, 8)


def test_damage_gives_one_kind_of_error() -> None:
    chosen = random.Random(0)
    for storage in (Storage(), Storage(">", True, True, DEFLATE, True, (2, 3)), Storage(compression=LZW)):
        whole = written(noise(5, 9, 7, dtype="uint16"), storage)
        for _ in range(300):
            damaged = bytearray(whole)
            for _ in range(chosen.randrange(1, 4)):
                damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
            with suppress(DataError):
                decode_image(bytes(damaged[: chosen.randrange(len(damaged) + 1)]), "a")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("pattern", "shape", "dtype"),
    [("flood/images/test/*.tif", (8, 128, 128), "u1"), ("sundarbans/test/*/*.tif", (12, 16, 16), "<u2")],
)
def test_satellite_images(pattern: str, shape: tuple[int, int, int], dtype: str) -> None:
    files = sorted(DATA.glob(pattern))[:5]
    if not files:
        pytest.skip(f"no {pattern} in FIELDKIT_DATA")
    for file in files:
        data = file.read_bytes()
        # These are a single zlib stream each.
        tags = tiff.pages(data)[0].tags
        raw = np.frombuffer(zlib.decompress(data[tags[273][0] :][: tags[279][0]]), dtype)
        raw = raw.reshape(shape[1], shape[2], shape[0])
        if tags.get(317) == (2,):
            raw = np.add.accumulate(raw, axis=1, dtype=raw.dtype)
        assert np.array_equal(read_image(file), raw.transpose(2, 0, 1))
