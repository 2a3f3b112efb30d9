"""Model architectures by name: one file and one line in the table each.

An architecture is a frozen dataclass of options and a factory ``(options, input_shape, class_count) -> nn.Module``.
The module maps normalised images float32 [n, c, h, w] to logits float32 [n, k]; its ``features`` method gives what the
last layer reads, float32 [n, f].  Options that nobody names take the dataclass's defaults, or follow from the image
where the architecture says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from torch import nn

from fieldkit.errors import UsageError
from fieldkit.hq.models.convnet import ConvNet, ConvNetOptions, fitting

Shape: TypeAlias = tuple[int, int, int]


def independent(_input_shape: Shape) -> Mapping[str, Any]:
    """No option depends on the image."""
    return {}


@dataclass(frozen=True)
class Architecture:
    """options: a frozen dataclass that checks its own values.  factory: builds the module.

    fitting: the options that follow from an image of shape (channels, height, width), by name.
    """

    options: Callable[..., Any]
    factory: Callable[[Any, Shape, int], nn.Module]
    fitting: Callable[[Shape], Mapping[str, Any]] = independent


ARCHITECTURES: dict[str, Architecture] = {
    "convnet": Architecture(ConvNetOptions, ConvNet, fitting),
}


def architecture(name: str) -> Architecture:
    """The architecture of this name."""
    if name not in ARCHITECTURES:
        raise UsageError(
            "unknown architecture", where="recipe", found=name, expected="one of " + ", ".join(sorted(ARCHITECTURES))
        )
    return ARCHITECTURES[name]


def check_options(name: str, values: Mapping[str, Any]) -> Any:
    """The options dataclass of architecture ``name`` from plain values, whatever the image.

    Raises UsageError for an unknown name or option, or a value out of range.
    """
    options = architecture(name).options
    known = [each.name for each in fields(options)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError("unknown option", where=name, found=", ".join(unknown), expected=", ".join(known))
    return options(**values)


def model_options(name: str, options: Any, input_shape: Shape) -> Any:
    """The options dataclass of architecture ``name`` for images of (channels, height, width).

    options: the dataclass itself, which is taken as it stands, or a mapping of the fields that somebody chose.
    """
    if not isinstance(options, Mapping):
        return options
    return check_options(name, {**architecture(name).fitting(input_shape), **options})


def build_model(name: str, options: Any, input_shape: Shape, class_count: int) -> nn.Module:
    """A freshly initialised module of architecture ``name``.

    options: as for ``model_options``.  input_shape: (channels, height, width).  class_count: number of logits.
    """
    return architecture(name).factory(model_options(name, options, input_shape), input_shape, class_count)
