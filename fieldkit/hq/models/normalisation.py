"""Native counts to normalised pixels, by the statistics that the radiometry writes down."""

from __future__ import annotations

import torch
from torch import nn

from fieldkit.bundle.radiometry import Radiometry


class Normalise(nn.Module):
    """(x - mean) / std per band: any real dtype [n, c, h, w] in native counts -> float32 [n, c, h, w]."""

    mean: torch.Tensor
    gain: torch.Tensor

    def __init__(self, radiometry: Radiometry) -> None:
        super().__init__()
        mean = torch.tensor(radiometry.mean, dtype=torch.float64).reshape(-1, 1, 1)
        std = torch.tensor(radiometry.std, dtype=torch.float64).reshape(-1, 1, 1)
        self.register_buffer("mean", mean.float())
        self.register_buffer("gain", (1.0 / std).float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.to(torch.float32) - self.mean) * self.gain

    def restore(self, normalised: torch.Tensor) -> torch.Tensor:
        """The inverse: normalised float32 [n, c, h, w] -> native counts."""
        return normalised / self.gain + self.mean
