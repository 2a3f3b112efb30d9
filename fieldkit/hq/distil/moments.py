"""Means and variances of what enters a network's normalisation layers, on real images and on distilled ones.

Batch normalisation keeps them itself, as running statistics.  Group, instance and layer normalisation keep none, so
theirs are measured.  Where a network normalises nothing, the inputs of its convolutions and linear layers behind the
first take their place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

NORMALISATIONS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Least variance of a channel, as a share of its layer's mean: a channel that never changes has no unit of its own.
LEAST = 1e-3

Moments = dict[str, torch.Tensor]
"""By a layer's name, the mean and the mean square of each channel of its inputs: float32 [2, c]."""


def watched_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The layers of ``module`` whose inputs are compared, by name; none if it is a single layer."""
    named: dict[str, nn.Module] = dict(module.named_modules())
    normalisations = [name for name, each in named.items() if isinstance(each, NORMALISATIONS)]
    weighted = [name for name, each in named.items() if isinstance(each, WEIGHTED)]
    return {name: named[name] for name in normalisations or weighted[1:]}


@contextmanager
def watching(module: nn.Module) -> Iterator[Moments]:
    """Yields what fills, as ``module`` runs once, with the moments of its watched layers' inputs; differentiable.

    A layer that runs several times counts each time alike.
    """
    runs: dict[str, int] = {}
    found: Moments = {}

    def watch(name: str) -> object:
        def keep(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            moments = _moments(layer, inputs[0])
            runs[name] = runs.get(name, 0) + 1
            found[name] = moments if runs[name] == 1 else found[name] + (moments - found[name]) / runs[name]

        return keep

    hooks = [each.register_forward_pre_hook(watch(name)) for name, each in watched_layers(module).items()]  # type: ignore[arg-type]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def running(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> Moments:
    """The moments that batch normalisations keep among a trained network's weights."""
    found: Moments = {}
    for name in watched_layers(module):
        mean, variance = weights.get(f"{name}.running_mean"), weights.get(f"{name}.running_var")
        if mean is not None and variance is not None:
            found[name] = torch.stack((mean, variance + mean**2))
    return found


def distance(found: Moments, wanted: Moments) -> torch.Tensor:
    """How far moments are from the wanted ones: a number, averaged over layers, 0 if there are none.

    Of each layer, the root mean square over channels of the means' differences, in wanted standard deviations, and the
    same of the variances' differences, in wanted variances.
    """
    if not wanted:
        return torch.zeros(())
    return torch.stack([_distance(found[name], each) for name, each in wanted.items()]).mean()


def _distance(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    unit = _variance(wanted)
    unit = unit.clamp_min(float(LEAST * unit.mean())).clamp_min(torch.finfo(torch.float32).tiny)
    means = (found[0] - wanted[0]) / unit.sqrt()
    variances = (_variance(found) - _variance(wanted)) / unit
    return _root_mean_square(means) + _root_mean_square(variances)


def _root_mean_square(values: torch.Tensor) -> torch.Tensor:
    # The norm, unlike a root of a mean, has a gradient at 0.
    return torch.linalg.vector_norm(values) / math.sqrt(len(values))  # type: ignore[no-any-return]


def _variance(moments: torch.Tensor) -> torch.Tensor:
    return (moments[1] - moments[0] ** 2).clamp_min(0.0)


def _moments(layer: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Over all axes but that of the channels: the last one where the layer normalises it, else the second."""
    shape = getattr(layer, "normalized_shape", None)
    last = isinstance(layer, nn.Linear) or (shape is not None and tuple(shape)[-1] == values.shape[-1])
    rows = values.movedim(-1 if last else 1, -1).flatten(0, -2)
    return torch.stack((rows.mean(dim=0), (rows**2).mean(dim=0)))
