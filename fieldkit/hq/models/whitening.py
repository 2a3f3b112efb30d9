"""ZCA whitening as the first, constant convolution of a network, so that it travels inside its programs.

ZCA (Bell & Sejnowski 1997, equation 5) multiplies an image by the root of the inverse covariance of all its values,
which for 32x32 pixels of 3 bands takes 9.4 million numbers.  Where images look alike everywhere, the row of one pixel
holds little beyond its surroundings: here it is that of a patch's middle pixel, some hundred numbers, for every pixel.
Distilled images stay images: they are whitened on their way into the network, as real ones are.

Differs from the ZCA of Nguyen et al. (ICLR 2021, arXiv 2011.00050) and of FRePo in the above, and in that what leaves
is brought to a standard deviation of 1.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fieldkit.errors import UsageError

# The smallest eigenvalues are noise, which would be blown up: each gets this share of their mean (as Nguyen et al.).
RIDGE = 0.1
SMALLEST = 1e-6
# Images by which a covariance is measured, and patches of one along each axis.
MEASURED = 4096
PATCHES = 8


class Whitened(nn.Module):
    """``model`` behind a whitening: float32 [n, c, h, w] -> what the model makes of the whitened images.

    kernel: float32 [c, c, s, s], s odd; it does not train.
    """

    def __init__(self, model: nn.Module, kernel: torch.Tensor) -> None:
        super().__init__()
        self.kernel = nn.Parameter(kernel, requires_grad=False)
        self.model = model
        if hasattr(model, "features"):
            self.features = self._features

    def whiten(self, images: torch.Tensor) -> torch.Tensor:
        """Images of the same shape; what lies outside of them counts as the mean."""
        return functional.conv2d(images, self.kernel, padding=self.kernel.shape[2] // 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.model(self.whiten(images)))

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, cast(Any, self.model).features(self.whiten(images)))


def whitening_kernel(images: torch.Tensor, size: int) -> torch.Tensor:
    """The kernel float32 [c, c, size, size] that whitens images like these, normalised float32 [n, c, h, w].

    Raises UsageError for a size that is not odd or that the images cannot hold.
    """
    channels, height, width = images.shape[1:]
    if size % 2 == 0 or not 1 <= size <= min(height, width):
        expected = f"an odd number from 1 to {min(height, width)}"
        raise UsageError("whitening does not fit the images", where="whiten", found=size, expected=expected)
    patches = _patches(images.double(), size)
    covariance = patches.T @ patches / len(patches)
    values, vectors = torch.linalg.eigh(covariance)
    roots = (values.clamp_min(0.0) + RIDGE * values.mean()).rsqrt()
    whole = (vectors * roots) @ vectors.T
    middle = whole.reshape(channels, size * size, -1)[:, size * size // 2]
    spread = (patches @ middle.T).std(dim=0)
    # A band that is the same everywhere has none.
    spread = torch.where(spread > SMALLEST, spread, 1.0)
    kernel: torch.Tensor = (middle / spread[:, None]).reshape(channels, channels, size, size).float()
    return kernel


def _patches(images: torch.Tensor, size: int) -> torch.Tensor:
    """[m, c * size * size]: patches from places spread evenly over the images."""
    rows, columns = (
        np.unique(np.linspace(0, length - size, PATCHES).astype(int)).tolist() for length in images.shape[2:]
    )
    cut = [images[:, :, row : row + size, column : column + size] for row in rows for column in columns]
    return torch.cat(cut).reshape(len(cut) * len(images), -1)
