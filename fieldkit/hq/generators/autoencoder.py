"""A compact convolutional variational autoencoder, whose latents' size follows from the image.

Kingma & Welling, "Auto-Encoding Variational Bayes", ICLR 2014 (arXiv 1312.6114); as in Rombach et al., "High-Resolution
Image Synthesis with Latent Diffusion Models", CVPR 2022 (arXiv 2112.10752), latents keep their places in the image and
are only lightly held to a normal distribution.

Differs from the latter in that there is neither a perceptual network, which would have to be downloaded, nor a critic.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import nn

from fieldkit.hq.generators.blocks import GROUPS, Residual

# The shorter side of the latents is as near to this as halving comes.
SIDE = 8
# Beyond this a logarithm of a variance says no more.
EXTREME = 10.0


class Autoencoder(nn.Module):
    """Normalised pixels float32 [n, c, h, w] <-> latents float32 [n, *latent_shape].

    width: channels of the outer layers, a multiple of 4; the inner ones have twice as many.  channels: of the latents.
    """

    def __init__(self, input_shape: tuple[int, int, int], width: int, channels: int) -> None:
        super().__init__()
        bands, height, width_of_image = input_shape
        self.sizes = halved((height, width_of_image))
        inner = [width, *[2 * width] * (len(self.sizes) - 2)]
        self.latent_shape = (channels, *self.sizes[-1])
        down: list[nn.Module] = []
        for before, after in zip([bands, *inner], inner, strict=False):
            down += [nn.Conv2d(before, after, 3, stride=2, padding=1), Residual(after)]
        self.encoder = nn.Sequential(*down, *_last(inner[-1], 2 * channels))
        up: list[nn.Module] = [nn.Conv2d(channels, inner[-1], 3, padding=1), Residual(inner[-1])]
        outwards = inner[::-1]
        for before, after, size in zip(outwards, outwards[1:], self.sizes[-2:0:-1], strict=False):
            up += [nn.Upsample(size=size), nn.Conv2d(before, after, 3, padding=1), Residual(after)]
        self.decoder = nn.Sequential(*up, *_last(width, 4 * bands), nn.PixelShuffle(2))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """The mean latents of pixels."""
        return self.moments(pixels)[0]

    def moments(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the variance of pixels' latents."""
        mean, log_variance = self.encoder(pixels).chunk(2, dim=1)
        return mean, log_variance.clamp(-EXTREME, EXTREME)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels that latents stand for; differentiable."""
        height, width = self.sizes[0]
        return cast(torch.Tensor, self.decoder(latents)[:, :, :height, :width])


def halved(size: tuple[int, int]) -> list[tuple[int, int]]:
    """Heights and widths from the image's to the latents', each half of the one before, rounded up."""
    times = max(round(math.log2(min(size) / SIDE)), 1)
    sizes = [size]
    for _ in range(times):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def autoencoder_loss(module: Autoencoder, pixels: torch.Tensor, noise: torch.Tensor, divergence: float) -> torch.Tensor:
    """Squared error of reconstructions plus ``divergence`` times the latents' KL divergence, both per pixel: [n].

    noise: standard normal, of the latents' shape (Kingma & Welling, equation 10 and appendix B).
    """
    mean, log_variance = module.moments(pixels)
    reconstructed = module.decode(mean + noise * torch.exp(0.5 * log_variance))
    error = ((reconstructed - pixels) ** 2).mean(dim=(1, 2, 3))
    apart = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1.0).sum(dim=(1, 2, 3))
    return error + divergence * apart / pixels[0].numel()


def _last(width: int, channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)]
