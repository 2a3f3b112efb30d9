"""An image brought to the size that a model takes, where the user asks for it."""

from __future__ import annotations

import numpy as np
from PIL import Image

WAYS = ("stretch", "crop")


def resize(image: np.ndarray, height: int, width: int, way: str) -> np.ndarray:
    """``image``, uint8 | uint16 [c, h, w], as [c, height, width] of the same dtype.

    Bilinear, and where it shrinks, each pixel is the weighted mean of all that it covers.  "stretch" takes the whole
    image, whatever that does to its proportions; "crop" keeps them and takes the largest part around the middle.
    """
    given_height, given_width = image.shape[1:]
    if (given_height, given_width) == (height, width):
        return image
    box = (0.0, 0.0, float(given_width), float(given_height))
    if way == "crop":
        scale = min(given_height / height, given_width / width)
        left, top = (given_width - scale * width) / 2, (given_height - scale * height) / 2
        box = (left, top, given_width - left, given_height - top)
    # pillow reduces floats exactly; of 16 bit pictures it knows less.
    bands = [
        Image.fromarray(band.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR, box)
        for band in image
    ]
    most = np.iinfo(image.dtype).max
    return np.stack([np.rint(np.asarray(band)) for band in bands]).clip(0, most).astype(image.dtype)
