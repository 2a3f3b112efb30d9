"""The laws that a module's first weights follow: torch's own where the values fit them, else what the values show.

Torch starts weight and bias of convolutions and linear layers at U(-1/sqrt(fan_in), 1/sqrt(fan_in)) (He et al. 2015
with a = sqrt(5)), the joined projections of its attention at Glorot & Bengio's uniform (2010), embeddings at N(0, 1).

All else is measured on the freshly built module: values that are all equal are a constant; otherwise the law is uniform
or normal around 0, whichever their largest value in standard deviations points to.  Its limits: a tensor of fewer than
about a hundred values may be taken for the other law, at the same spread; of a start with a structure (orthogonal,
identity, sparse, parts of different spread) only the spread is kept.  Values around another number than 0 become one
number of their root mean square where they are one per channel (RepVGG's scales) or hardly differ; a matrix of them is
refused, since equal weights would stay equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fieldkit.bundle.recipe import Tensor
from fieldkit.errors import ProgramError

Law = tuple[str, float]
Array = np.ndarray[Any, Any]

FAN_IN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
# Values that a law would give this rarely do not follow it: so many standard errors of a mean or spread, and the
# chance that all values stay so far below the bound of a uniform.
ERRORS = 5.0
CHANCE = 1e-6
# A uniform's largest value is 1.73 standard deviations; a normal cut at two of its own has 2.27.
LARGEST_UNIFORM = 2.0
# A mean up to this part of the spread counts as none, and a spread up to this part of the mean.
SMALL = 0.25
CARRIED = {"running_mean": 0.0, "running_var": 1.0}


def parameter_tensors(module: nn.Module) -> tuple[Tensor, ...]:
    """Every tensor of ``module`` that trains: its state-dict name, shape and law, in ``named_parameters`` order.

    The module must be as it was built, since laws are read from its values.  Frozen parameters are left out: they
    keep their values, as constants of the programs.  Raises ProgramError where no law is near.
    """
    trained = [(name, each) for name, each in module.named_parameters() if each.requires_grad]
    return tuple(Tensor(name, tuple(each.shape), _law(module, name, each)) for name, each in trained)


def carried_buffers(module: nn.Module) -> tuple[Tensor, ...]:
    """The running means and variances that training changes and ``predict`` reads, by their state-dict names.

    Those of a part that is frozen as a whole keep their values beside its parameters, whatever they were trained to.
    """
    return tuple(_carried(module))


def _carried(module: nn.Module) -> Iterator[Tensor]:
    for name, buffer in module.named_buffers():
        path, _, own = name.rpartition(".")
        tracks = getattr(module.get_submodule(path), "track_running_stats", False)
        if own in CARRIED and tracks and buffer.is_floating_point() and not _is_frozen(module, path):
            yield Tensor(name, tuple(buffer.shape), ("constant", CARRIED[own]))


def _is_frozen(module: nn.Module, path: str) -> bool:
    """Whether a layer, or a part of ``module`` around it, has parameters and none that trains."""
    names = path.split(".") if path else []
    around = (module.get_submodule(".".join(names[:count])) for count in range(1, len(names) + 1))
    flags = ([each.requires_grad for each in part.parameters()] for part in around)
    return any(each and not any(each) for each in flags)


def load_weights(module: nn.Module, weights: Mapping[str, Array]) -> None:
    """Put float32 arrays, by the names of parameters and buffers, into ``module``."""
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, values in weights.items():
            own[name].copy_(torch.from_numpy(np.array(values, dtype=np.float32)))


def _law(module: nn.Module, name: str, parameter: torch.Tensor) -> Law:
    path, _, own = name.rpartition(".")
    values = parameter.detach().cpu().numpy()
    usual = _usual(module.get_submodule(path), own)
    if usual is not None and _fits(usual, values):
        return usual
    return _measured(name, values)


def _usual(layer: nn.Module, name: str) -> Law | None:
    """The law by which torch starts this tensor of a layer, if it draws it."""
    if isinstance(layer, FAN_IN) and name in ("weight", "bias"):
        return ("uniform", 1.0 / math.sqrt(math.prod(layer.weight.shape[1:])))
    if isinstance(layer, nn.MultiheadAttention) and name in ATTENTION:
        return ("uniform", math.sqrt(6.0 / sum(cast(torch.Tensor, getattr(layer, name)).shape)))
    if isinstance(layer, nn.Embedding):
        return ("normal", 1.0)
    return None


def _fits(law: Law, values: Array) -> bool:
    """Whether values may have been drawn from a uniform or normal law."""
    kind, number = law
    count, spread = values.size, number / math.sqrt(3.0) if kind == "uniform" else number
    mean, size = float(values.mean(dtype=np.float64)), _size(values)
    if kind == "uniform":
        largest = float(np.abs(values).max())
        if not number * CHANCE ** (1.0 / count) <= largest <= number * (1.0 + 1e-6):
            return False
    elif count > 1 and values.min() == values.max():
        return False
    return abs(mean) <= ERRORS * spread / math.sqrt(count) and abs(size / spread - 1) <= ERRORS / math.sqrt(2 * count)


def _measured(name: str, values: Array) -> Law:
    if values.min() == values.max():
        # The shortest number that gives the same float32.
        return ("constant", float(str(values.flat[0])))
    mean, spread = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    if abs(mean) > max(SMALL * spread, ERRORS * spread / math.sqrt(values.size)):
        if max(values.shape) == values.size or spread <= SMALL * abs(mean):
            return ("constant", _rounded(math.copysign(_size(values), mean)))
        raise ProgramError(
            "the first values of this tensor follow no law that a bundle can hold",
            where=name,
            found=f"mean {mean:.3g}, standard deviation {spread:.3g}",
            expected="all equal, or spread evenly around 0",
            remedy="start it at a constant or around 0, or freeze it (requires_grad=False)",
        )
    largest = float(np.abs(values).max())
    if largest <= LARGEST_UNIFORM * spread:
        return ("uniform", _rounded(largest * (1.0 + 1.0 / values.size)))
    return ("normal", _rounded(_size(values)))


def _size(values: Array) -> float:
    """Root mean square."""
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64))))


def _rounded(number: float) -> float:
    """Three digits: no sample says more."""
    return float(f"{number:.3g}")
