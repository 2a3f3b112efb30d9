"""What a model's last layer reads, for any module."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from fieldkit.errors import ProgramError


class OwnFeatures(nn.Module):
    """Calls the ``features`` method of ``module``, since torch.func.functional_call runs only ``forward``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, cast(Any, self.module).features(images))


class HookedFeatures(nn.Module):
    """Runs ``module`` and gives what the last of its linear layers and convolutions read, flattened to [n, f]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        read: list[torch.Tensor] = []

        def keep(_layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            read[:] = inputs[:1]

        layers = [each for each in self.module.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
        hooks = [each.register_forward_pre_hook(keep) for each in layers]
        try:
            self.module(images)
        finally:
            for hook in hooks:
                hook.remove()
        if not read:
            raise ProgramError(
                "the model has no features to compare",
                where=type(self.module).__name__,
                expected="a Linear or Conv2d as its last layer, or a method features(images)",
            )
        return read[0].flatten(1)


def features_of(module: nn.Module) -> nn.Module:
    """Normalised images float32 [n, c, h, w] -> features float32 [n, f] of ``module``, which it holds as ``module``.

    Those of its own ``features`` method, if it has one beside a ``head``; otherwise what the last of its linear layers
    and convolutions to run reads.  A submodule called ``features`` is something else: a trunk, in torchvision's models.
    """
    features = getattr(module, "features", None)
    own = callable(features) and not isinstance(features, nn.Module) and hasattr(module, "head")
    return OwnFeatures(module) if own else HookedFeatures(module)
