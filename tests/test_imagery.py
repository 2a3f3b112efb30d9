"""Image files: native counts come out as they went in, or one clear error does."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fieldkit.errors import DataError, UsageError
from fieldkit.field.images.imagery import decode_image, is_image_file, read_image

NOISE = np.random.default_rng(0)
GREY = NOISE.integers(0, 256, (5, 4), dtype=np.uint8)
GREY16 = NOISE.integers(0, 65536, (5, 4), dtype=np.uint16)
COLOUR = NOISE.integers(0, 256, (5, 4, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_eight_bits(tmp_path: Path, pixels: np.ndarray, suffix: str) -> None:
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    found = read_image(tmp_path / f"a.{suffix}")
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.array_equal(found, np.atleast_3d(pixels).transpose(2, 0, 1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey_stays_sixteen_bits(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(GREY16).save(tmp_path / f"a.{suffix}")
    found = read_image(tmp_path / f"a.{suffix}")
    assert found.dtype == np.uint16
    assert np.array_equal(found[0], GREY16)


def test_jpeg(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(tmp_path / "a.jpeg")
    assert np.abs(read_image(tmp_path / "a.jpeg").astype(int) - 77).max() <= 2


def test_palettes_and_bits(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).quantize(4).save(tmp_path / "p.png")
    Image.fromarray(GREY > 128).save(tmp_path / "b.png")
    assert read_image(tmp_path / "p.png").shape == (3, 5, 4)
    assert np.array_equal(read_image(tmp_path / "b.png")[0], np.where(GREY > 128, 255, 0))


def test_alpha_is_dropped_only_if_it_hides_nothing(tmp_path: Path) -> None:
    opaque = np.dstack([COLOUR, np.full((5, 4), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), COLOUR.transpose(2, 0, 1))
    opaque[2, 2, 3] = 254
    Image.fromarray(opaque).save(tmp_path / "b.png")
    with pytest.raises(DataError, match="transparent"):
        read_image(tmp_path / "b.png")


def test_a_cameras_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(COLOUR, -1).transpose(2, 0, 1))


def png_of_sixteen_bit_colour() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 3, 16, 2, 0, 0, 0)
    lines = zlib.compress((b"\0" + bytes(12)) * 3)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_what_would_lose_something_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="16 bits per colour"):
        decode_image(png_of_sixteen_bit_colour(), "a.png")
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="mode CMYK"):
        read_image(tmp_path / "a.tif")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="mode F"):
        read_image(tmp_path / "f.tif")
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="2 pages"):
        read_image(tmp_path / "p.tif")


def test_damaged_files_give_one_kind_of_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for suffix in ("png", "jpg", "tif", "bmp"):
        Image.fromarray(COLOUR).save(tmp_path / f"a.{suffix}")
        whole = (tmp_path / f"a.{suffix}").read_bytes()
        chosen = random.Random(0)
        for _ in range(200):
            damaged = bytearray(whole)
            for _ in range(chosen.randrange(1, 4)):
                damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
            with contextlib.suppress(DataError):
                decode_image(bytes(damaged[: chosen.randrange(len(damaged))]), "a")
    assert capfd.readouterr().out == ""


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(DataError, match=r"a\.png.*\n.*unreadable image"):
        read_image(tmp_path / "a.png")
    with pytest.raises(UsageError, match="a folder"):
        read_image(tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UsageError, match="no such file"):
        read_image(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch(0o000)
    with pytest.raises(DataError, match="permissions"):
        read_image(tmp_path / "a.png")


def test_names_of_images() -> None:
    assert all(is_image_file(name) for name in ("a.png", "b/c.JPG", "d.tiff", "e.bmp", "f.jpeg", "g.tif"))
    assert not any(is_image_file(name) for name in ("a.txt", "Thumbs.db", ".hidden.png", "png", "a.h5"))
