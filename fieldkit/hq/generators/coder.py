"""Pixels to latents of unit variance and back, through an autoencoder trained here or one that the user names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from fieldkit.errors import UsageError
from fieldkit.hq.models.factory import FactoryOptions, Quoted, make_module

# Images that go through the autoencoder at a time where no gradient is wanted.
BATCH = 256
TRIAL = 2


class Coder:
    """Latents less their mean, over their standard deviation, channel by channel, as a flow wants them.

    module: has ``encode`` (normalised pixels float32 [n, c, h, w] -> latents float32 [n, channels, y, x]) and
    ``decode``, its inverse.
    """

    def __init__(self, module: nn.Module, latent_shape: tuple[int, int, int], device: str) -> None:
        self.module: Any = module.to(device)
        self.latent_shape = latent_shape
        self._offset = torch.zeros(latent_shape[0], 1, 1, device=device)
        self._scale = torch.ones(latent_shape[0], 1, 1, device=device)

    def measure(self, pixels: torch.Tensor) -> None:
        """Take mean and deviation of the latents from those of ``pixels``."""
        self._offset, self._scale = torch.zeros_like(self._offset), torch.ones_like(self._scale)
        latents = self.encode(pixels)
        self._offset = latents.mean(dim=(0, 2, 3))[:, None, None]
        self._scale = latents.std(dim=(0, 2, 3))[:, None, None].clamp_min(1e-6)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents of normalised pixels, without a gradient."""
        with torch.no_grad():
            latents = torch.cat([self.module.encode(each) for each in torch.split(pixels, BATCH)])
        return (latents - self._offset) / self._scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Normalised pixels of latents; differentiable in them."""
        return cast(torch.Tensor, self.module.decode(latents * self._scale + self._offset))

    def state(self) -> dict[str, torch.Tensor]:
        return {"offset": self._offset, "scale": self._scale}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        self._offset, self._scale = state["offset"].to(self._offset), state["scale"].to(self._scale)


def named_coder(factory: str, weights: str, input_shape: tuple[int, int, int], class_count: int, device: str) -> Coder:
    """The autoencoder that "package.module:factory" makes, with the weights of a local file; nothing is downloaded.

    The factory is code of the user's own choice, as a recipe's is.  The file holds a state_dict as torch.save writes
    it and is read as data alone (``weights_only``), so that it cannot bring code of its own.  Without a file the
    factory loads its weights itself.

    Raises UsageError if there is no such file, or if it, the factory or the module does not fit.
    """
    module = make_module(FactoryOptions(factory), input_shape, class_count)
    if weights:
        _load(module, Path(weights))
    module.eval().requires_grad_(False)
    return Coder(module, _latent_shape(module, factory, input_shape), device)


def _load(module: nn.Module, path: Path) -> None:
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError("the weights cannot be read", where=path, found=error.strerror or str(error)) from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        expected = "a state_dict as torch.save writes it, tensors alone"
        raise UsageError("not a file of weights", where=path, found=type(error).__name__, expected=expected) from error
    with Quoted(str(path), "the weights do not fit the autoencoder"):
        module.load_state_dict(stored)


def _latent_shape(module: nn.Module, name: str, input_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of one image's latents, after a trial of both ways."""
    trial: Any = module
    message = f"the autoencoder fails on images of shape {input_shape}"
    with torch.no_grad(), Quoted(name, message):
        latents = trial.encode(torch.zeros(TRIAL, *input_shape))
        pixels = trial.decode(latents)
    if latents.ndim != 4 or pixels.shape != (TRIAL, *input_shape):
        raise UsageError(
            "not an autoencoder of these images",
            where=name,
            found=f"latents {tuple(latents.shape)}, pixels {tuple(pixels.shape)}",
            expected=f"encode to [n, channels, y, x], decode to {(TRIAL, *input_shape)}",
        )
    return cast("tuple[int, int, int]", tuple(latents.shape[1:]))
