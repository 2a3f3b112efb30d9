"""Model architectures by name: one file and one line in the table each.

An architecture is a frozen dataclass of options and a factory ``(options, input_shape, class_count) -> nn.Module``.
The module maps normalised images float32 [n, c, h, w] to logits float32 [n, k]; its ``features`` method gives what the
last layer reads, float32 [n, f].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from fieldkit.errors import UsageError
from fieldkit.hq.models.convnet import ConvNet, ConvNetOptions


@dataclass(frozen=True)
class Architecture:
    """options: a frozen dataclass that checks its own values.  factory: builds the module."""

    options: Callable[..., Any]
    factory: Callable[[Any, tuple[int, int, int], int], nn.Module]


ARCHITECTURES: dict[str, Architecture] = {
    "convnet": Architecture(ConvNetOptions, ConvNet),
}


def architecture(name: str) -> Architecture:
    """The architecture of this name."""
    if name not in ARCHITECTURES:
        raise UsageError(
            "unknown architecture", where="recipe", found=name, expected="one of " + ", ".join(sorted(ARCHITECTURES))
        )
    return ARCHITECTURES[name]


def model_options(name: str, values: Mapping[str, Any]) -> Any:
    """The options dataclass of architecture ``name`` from plain values; an unknown option is refused."""
    options = architecture(name).options
    known = [each.name for each in fields(options)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError("unknown option", where=name, found=", ".join(unknown), expected=", ".join(known))
    return options(**values)


def build_model(name: str, options: Any, input_shape: tuple[int, int, int], class_count: int) -> nn.Module:
    """A freshly initialised module of architecture ``name``.

    options: the architecture's dataclass, or a mapping of its fields.
    input_shape: (channels, height, width).  class_count: number of logits.
    """
    chosen = model_options(name, options) if isinstance(options, Mapping) else options
    return architecture(name).factory(chosen, input_shape, class_count)
