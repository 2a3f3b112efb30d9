"""Model architectures by name: one file and one line in the table each.

An architecture is a frozen dataclass of options and a factory ``(options, input_shape, class_count) -> nn.Module``.
The module maps normalised images float32 [n, c, h, w] to logits float32 [n, k]; its ``features`` method gives what the
last layer reads, float32 [n, f], ``blocks`` holds its blocks in order, and ``head`` is the last layer.  Options that
nobody names take the dataclass's defaults, or follow from the image where the architecture says so.

A name with a colon is that of a factory outside of fieldkit, "package.module:factory", and its options are the
factory's keyword arguments (factory.py); such a module needs none of the above but the logits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

from torch import nn

from fieldkit.errors import UsageError
from fieldkit.hq.models import convnet, mobilenet, vit
from fieldkit.hq.models.convnet import ConvNet, ConvNetOptions
from fieldkit.hq.models.factory import FactoryOptions, build_own
from fieldkit.hq.models.mlp import Mlp, MlpOptions
from fieldkit.hq.models.mobilenet import MobileNet, MobileNetOptions
from fieldkit.hq.models.resnet import ResNet, ResNetOptions
from fieldkit.hq.models.vit import Vit, VitOptions
from fieldkit.hq.seeding import seeded

# Laws that are measured on a fresh module must come out the same each time.
SEED = 0
OWN = "factory"
"""The name of every architecture from outside, in a recipe's ``architecture``."""

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
    "convnet": Architecture(ConvNetOptions, ConvNet, convnet.fitting),
    "mlp": Architecture(MlpOptions, Mlp),
    "mobilenet": Architecture(MobileNetOptions, MobileNet, mobilenet.fitting),
    "resnet": Architecture(ResNetOptions, ResNet),
    "vit": Architecture(VitOptions, Vit, vit.fitting),
}
OUTSIDE = Architecture(FactoryOptions, build_own)


def architecture(name: str) -> Architecture:
    """The architecture of this name."""
    if ":" in name:
        return OUTSIDE
    if name not in ARCHITECTURES:
        expected = f"one of {', '.join(sorted(ARCHITECTURES))}, or package.module:factory"
        raise UsageError("unknown architecture", where="recipe", found=name, expected=expected)
    return ARCHITECTURES[name]


def check_options(name: str, values: Mapping[str, Any]) -> Any:
    """The options dataclass of architecture ``name`` from plain values, whatever the image.

    Raises UsageError for an unknown name or option, or a value out of range; of a factory, only that it is there.
    """
    if architecture(name) is OUTSIDE:
        return FactoryOptions(name, dict(values))
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
    """A freshly initialised module of architecture ``name``: the same each time, whatever torch's seed.

    options: as for ``model_options``.  input_shape: (channels, height, width).  class_count: number of logits.
    """
    chosen = model_options(name, options, input_shape)
    return seeded(lambda: architecture(name).factory(chosen, input_shape, class_count), SEED)


def description(name: str, options: Any) -> dict[str, Any]:
    """What a recipe's ``architecture`` says of a model: its name and all of its options."""
    return {"name": OWN if architecture(name) is OUTSIDE else name, **asdict(options)}


def recipe_name(name: str) -> str:
    """What a bundle calls a recipe of architecture ``name``: of a factory, its own name in small letters.

    >>> recipe_name("my_models.tiny:TinyNet")
    'tinynet'
    """
    return re.sub(r"[^a-z0-9._-]", "-", name.rpartition(":")[2].lower())[:64]
