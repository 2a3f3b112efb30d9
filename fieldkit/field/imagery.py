"""One image file as an array of native counts: PNG, JPEG, TIFF or BMP, through pillow.

Nothing is converted silently that would change what a sensor measured: grey stays one band, 16 bits stay 16 bits, and
a file that pillow could only give with loss is refused.  What is done: a palette becomes red, green and blue; an alpha
band that hides nothing is dropped; the orientation that a camera wrote into the file is applied.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fieldkit.errors import DataError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
# pillow logs what it also raises; without a handler, logging's last resort would print that.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_REMEDY = "convert it to an 8 or 16 bit grey, or 8 bit RGB, PNG or TIFF"
# What pillow's decoders raise for bytes that are not an image, or not a whole one.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def is_image_file(path: str | Path) -> bool:
    """True if the name ends like an image's and is not hidden; the content is not looked at."""
    path = Path(path)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_image(path: str | Path) -> np.ndarray:
    """The image in a file: uint8 | uint16 [c, h, w], native counts.

    Raises UsageError if there is no such file, DataError if it is not an image that can be read without loss.
    """
    path = Path(path)
    if not os.path.exists(path):
        raise UsageError("no such file", where=path, remedy="check the path")
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "a device or pipe"
        raise UsageError("not a file", where=path, found=found, remedy="name an image file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(path, [f"cannot be read: {error.strerror}"], remedy="check the file's permissions") from error
    return decode_image(data, path)


def decode_image(data: bytes, where: object) -> np.ndarray:
    """The image in the bytes of a file: uint8 | uint16 [c, h, w], native counts.

    ``where`` names the bytes in an error.  Raises DataError.
    """
    try:
        with warnings.catch_warnings():
            # pillow warns of odd metadata; what matters here is whether the pixels can be read.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                fault = _lossy(image)
                if fault is None:
                    image.load()
                    return _as_bands(ImageOps.exif_transpose(image), where)
    except _UNREADABLE as error:
        reason = (
            "a format, or a number of bands, that pillow does not know"
            if isinstance(error, UnidentifiedImageError)
            else str(error)
        )
        expected = "a whole PNG, JPEG, TIFF or BMP file"
        raise DataError(where, [f"unreadable image: {reason}; expected {expected}"], remedy=_REMEDY) from error
    raise DataError(where, [fault], remedy=_REMEDY)


def _lossy(image: Image.Image) -> str | None:
    """Why pillow's decoding would lose something, or None."""
    pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if pages > 1:
        return f"{pages} pages in one TIFF; expected one image per file"
    # A tile's last field is how its bytes are laid out, "RGB;16B" for instance: pillow's mode alone hides the 16.
    layouts = str([tile[3] for tile in getattr(image, "tile", ())])
    if image.mode in ("RGB", "RGBA", "LA") and ";16" in layouts:
        return "16 bits per colour, of which pillow would drop 8"
    return None


def _as_bands(image: Image.Image, where: object) -> np.ndarray:
    """A loaded pillow image as uint8 | uint16 [c, h, w]."""
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode in ("LA", "RGBA"):
        image = _without_alpha(image, where)
    pixels = np.asarray(image)
    if image.mode in ("L", "RGB"):
        bands = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(bands, dtype=np.uint8)
    # Older pillows open a 16 bit grey PNG as 32 bit "I".
    if image.mode.startswith("I;16") or (image.mode == "I" and _fits_uint16(pixels)):
        return np.ascontiguousarray(pixels[None], dtype=np.uint16)
    raise DataError(where, [f"pixels of mode {image.mode}; expected 8 or 16 bit grey, or 8 bit RGB"], remedy=_REMEDY)


def _without_alpha(image: Image.Image, where: object) -> Image.Image:
    """The colours alone, if the alpha band is opaque everywhere."""
    if np.asarray(image.getchannel("A")).min() < 255:
        raise DataError(where, ["transparent pixels, whose colour is undefined"], remedy="flatten it onto a background")
    return image.convert("L" if image.mode == "LA" else "RGB")


def _fits_uint16(pixels: np.ndarray) -> bool:
    return bool(pixels.min() >= 0 and pixels.max() <= np.iinfo(np.uint16).max)
