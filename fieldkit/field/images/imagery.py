"""One image file as an array of native counts: PNG, JPEG, TIFF or BMP, through pillow and our own ``tiff``.

Nothing is converted silently that would change what a sensor measured: grey stays one band, 16 bits stay 16 bits, and
a file that pillow could only give with loss is refused.  What is done: a palette becomes red, green and blue; an alpha
band that hides nothing is dropped; the orientation that a camera wrote into the file is applied.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from fieldkit.errors import DataError, UsageError
from fieldkit.field.images import tiff

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
MAX_FILE_BYTES = 1 << 30
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
# pillow logs what it also raises; without a handler, logging's last resort would print that.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_REMEDY = "convert it to an 8 or 16 bit grey, or 8 bit RGB, PNG or TIFF, or to a TIFF of more bands"
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


class _Silence:
    """Lets no warning through while anybody is inside.

    ``warnings.catch_warnings`` alone puts back the wrong filters where several threads overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._catcher.__exit__(None, None, None)


_silence = _Silence()


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
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(path, [f"{size:,} bytes; expected at most {MAX_FILE_BYTES:,}"], remedy="cut it into tiles")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(path, [f"cannot be read: {error.strerror}"], remedy="check the file's permissions") from error
    return decode_image(data, path)


def decode_image(data: bytes, where: object) -> np.ndarray:
    """The image in the bytes of a file: uint8 | uint16 [c, h, w], native counts.

    ``where`` names the bytes in an error.  Raises DataError.
    """
    if not data:
        raise DataError(where, ["the file is empty"], remedy="get the file again")
    try:
        # pillow warns of odd metadata; what matters here is whether the pixels can be read.
        with _silence:
            return _decoded(data, where)
    except _UNREADABLE as error:
        reason = "a format that is not known here" if isinstance(error, UnidentifiedImageError) else str(error)
        expected = "a whole PNG, JPEG, TIFF or BMP file"
        raise DataError(where, [f"unreadable image: {reason}; expected {expected}"], remedy=_REMEDY) from error


def _decoded(data: bytes, where: object) -> np.ndarray:
    """The image's bands, uint8 | uint16 [c, h, w]."""
    place = 0
    if tiff.is_tiff(data):
        pages = tiff.pages(data)
        if len(pages) != 1:
            raise DataError(where, [f"{len(pages)} pages in one TIFF; expected one image per file"], remedy=_REMEDY)
        if not pages[0].is_pillows:
            bands, alpha = tiff.decode(data, pages[0])
            if alpha is not None:
                _check_opaque(alpha, where)
            return bands
        place = pages[0].index
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        image.seek(place)
        # A tile's last field is how its bytes are laid out, "RGB;16B" for instance: pillow's mode alone hides the 16.
        layouts = str([tile[3] for tile in getattr(image, "tile", ())])
        if image.mode in ("RGB", "RGBA", "LA") and ";16" in layouts:
            raise DataError(where, ["16 bits per colour, of which pillow would drop 8"], remedy=_REMEDY)
        image.load()
        return _as_bands(ImageOps.exif_transpose(image), where)


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
    _check_opaque(np.asarray(image.getchannel("A")), where)
    return image.convert("L" if image.mode == "LA" else "RGB")


def _check_opaque(alpha: np.ndarray, where: object) -> None:
    if alpha.min() < np.iinfo(alpha.dtype).max:
        raise DataError(where, ["transparent pixels, whose colour is undefined"], remedy="flatten it onto a background")


def _fits_uint16(pixels: np.ndarray) -> bool:
    return bool(pixels.min() >= 0 and pixels.max() <= np.iinfo(np.uint16).max)
