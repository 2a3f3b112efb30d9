"""A class-conditional flow between noise and latents.

Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023 (arXiv 2210.02747) and Liu et al., "Flow Straight and
Fast", ICLR 2023 (arXiv 2209.03003): along the line z(t) = (1 - t) e + t z from noise e to a latent z, a network learns
the velocity z - e (conditional flow matching with the optimal-transport path and no noise left at the end).  Times are
drawn as in Esser et al., ICML 2024 (arXiv 2403.03206), the logistic of a normal.  Some classes are left out while
training, for guidance without a classifier (Ho & Salimans 2022, arXiv 2207.12598).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from fieldkit.hq.generators.blocks import GROUPS, Residual, zeroed

BLOCKS = 4
# Of the vector that describes a time: sines and cosines of so many frequencies each.
FREQUENCIES = 16
# Share of training samples whose class is left out.
CLASSLESS = 0.1

# (latents at time t, their velocity, t) -> the velocity to follow.
Guide = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


class Flow(nn.Module):
    """Velocity of latents: (float32 [n, *latent_shape], times float32 [n] in 0-1, classes int64 [n]) -> as the latents.

    Class ``class_count`` stands for any.  width: channels, a multiple of 4.
    """

    def __init__(self, latent_shape: tuple[int, int, int], class_count: int, width: int) -> None:
        super().__init__()
        channels, height, latent_width = latent_shape
        self.class_count = class_count
        self.places = nn.Parameter(torch.zeros(1, width, height, latent_width))
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(class_count + 1, width)
        self.blocks = nn.ModuleList(Residual(width, condition=width) for _ in range(BLOCKS))
        self.norm = nn.GroupNorm(GROUPS, width)
        self.last = zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, latents: torch.Tensor, times: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        condition = functional.silu(self.time(_waves(times)) + self.classes(classes))
        x = self.first(latents) + self.places
        for block in self.blocks:
            x = block(x, condition)
        return cast(torch.Tensor, self.last(functional.silu(self.norm(x))))


def flow_loss(
    module: Flow, latents: torch.Tensor, classes: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """Squared error of the velocity at each sample's time, averaged over its latents: [n].

    noise: standard normal, as the latents.  times: float32 [n] in 0-1.
    """
    at = times[:, None, None, None]
    found = cast(torch.Tensor, module((1.0 - at) * noise + at * latents, times, classes))
    return ((found - (latents - noise)) ** 2).mean(dim=(1, 2, 3))


def follow(
    module: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    latents: torch.Tensor,
    classes: torch.Tensor,
    guides: tuple[Guide, ...] = (),
    *,
    begin: float = 0.0,
    steps: int = 25,
) -> torch.Tensor:
    """Latents at time 1 of those at time ``begin``, by Euler's method in ``steps`` steps.

    guides: what changes the velocity on the way, one after the other.
    """
    times = torch.linspace(begin, 1.0, steps + 1).tolist()
    for now, then in pairwise(times):
        velocity = module(latents, torch.full((len(latents),), now, device=latents.device), classes)
        for guide in guides:
            velocity = guide(latents, velocity, now)
        latents = latents + (then - now) * velocity
    return latents


def away_from_average(module: Flow, strength: float) -> Guide:
    """Guidance without a classifier: the velocity moves on, ``strength`` times its distance from that of any class."""

    def guide(latents: torch.Tensor, velocity: torch.Tensor, now: float) -> torch.Tensor:
        count = len(latents)
        anything = torch.full((count,), module.class_count, device=latents.device)
        average: torch.Tensor = module(latents, torch.full((count,), now, device=latents.device), anything)
        return velocity + strength * (velocity - average)

    return guide


def _waves(times: torch.Tensor) -> torch.Tensor:
    """Times float32 [n] in 0-1 as sines and cosines, of one to a hundred periods' share: float32 [n, 2 FREQUENCIES]."""
    rates = torch.exp(torch.linspace(0.0, math.log(100.0), FREQUENCIES, device=times.device))
    angles = times[:, None] * rates
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
