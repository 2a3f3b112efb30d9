"""The laws that a module's first weights follow, read from the types of its layers.

These are torch's own defaults: U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weight and bias of convolutions and linear
layers (He et al. 2015 with a = sqrt(5)), 1 and 0 for normalisation layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fieldkit.bundle.recipe import Tensor
from fieldkit.errors import ProgramError

Law = tuple[str, float]


def _fan_in(layer: nn.Module, _name: str) -> Law:
    weight = cast(torch.Tensor, layer.weight)
    return ("uniform", 1.0 / math.sqrt(math.prod(weight.shape[1:])))


def _ones_and_zeros(_layer: nn.Module, name: str) -> Law:
    return ("constant", 1.0 if name == "weight" else 0.0)


LAWS: dict[type[nn.Module], Callable[[nn.Module, str], Law]] = {
    nn.Conv2d: _fan_in,
    nn.Linear: _fan_in,
    nn.GroupNorm: _ones_and_zeros,
}


def parameter_tensors(module: nn.Module) -> tuple[Tensor, ...]:
    """Every trained tensor of ``module``: its state-dict name, shape and law, in ``named_parameters`` order."""
    tensors = []
    for name, parameter in module.named_parameters():
        path, _, own = name.rpartition(".")
        layer = module.get_submodule(path)
        law = LAWS.get(type(layer))
        if law is None:
            raise ProgramError(
                "no law is known for the first weights of this layer",
                where=name,
                found=type(layer).__name__,
                expected="one of " + ", ".join(sorted(each.__name__ for each in LAWS)),
                remedy="add the layer's law to fieldkit/hq/models/laws.py",
            )
        tensors.append(Tensor(name, tuple(parameter.shape), law(layer, own)))
    return tuple(tensors)


def load_weights(module: nn.Module, weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Put float32 arrays, by parameter name, into ``module``."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(np.array(weights[name], dtype=np.float32)))
