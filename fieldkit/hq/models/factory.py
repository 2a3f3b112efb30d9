"""Models of the user's own, and those of other libraries: any callable that returns a module, by where it stands."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn

from fieldkit.errors import FieldkitError, UsageError

Shape = tuple[int, int, int]
# Two images, because a single one has no batch statistics.
TRIAL = 2
USUAL_CHANNELS = 3


@dataclass(frozen=True)
class FactoryOptions:
    """Which factory makes the module, and with what.

    factory: "package.module:factory", imported from the current folder or from what is installed.
    options: keyword arguments of the factory.
    """

    factory: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        find(self.factory)


def build_own(options: FactoryOptions, input_shape: Shape, class_count: int) -> nn.Module:
    """The module that a factory makes for images of (channels, height, width), after a trial of it.

    Raises UsageError if the factory fails, or makes something else than a classifier of ``class_count`` classes.
    """
    module = make_module(options, input_shape, class_count)
    _try(module, options.factory, input_shape, class_count)
    return module


def make_module(options: FactoryOptions, input_shape: Shape, class_count: int) -> nn.Module:
    """Whatever module a factory makes, told of images of (channels, height, width) and of the classes if it asks.

    Raises UsageError if the factory fails or makes no module.
    """
    factory = find(options.factory)
    with _current_folder(), Quoted(options.factory, "the factory failed"):
        module = factory(**_arguments(factory, options, input_shape, class_count))
    if not isinstance(module, nn.Module):
        found, expected = type(module).__name__, "a torch.nn.Module"
        raise UsageError("the factory makes no module", where=options.factory, found=found, expected=expected)
    return module


def find(name: str) -> Callable[..., Any]:
    """The factory at "package.module:factory"."""
    path, _, attribute = name.partition(":")
    if not path or not attribute:
        raise UsageError("not a factory", where="factory", found=name, expected="package.module:factory")
    with _current_folder(), Quoted(name, "the module cannot be imported"):
        try:
            found: Any = importlib.import_module(path)
        except ModuleNotFoundError as error:
            # A library that the module itself lacks is quoted like its other errors.
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                raise
            remedy = "run fieldkit in the folder that holds it, or install it"
            raise UsageError("no such module", where=name, found=error.name, remedy=remedy) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError("the module has no such factory", where=name, found=part)
        found = getattr(found, part)
    if not callable(found):
        expected = "a function or class that returns a torch.nn.Module"
        raise UsageError("not callable", where=name, found=type(found).__name__, expected=expected)
    return found  # type: ignore[no-any-return]


def _arguments(
    factory: Callable[..., Any], options: FactoryOptions, input_shape: Shape, class_count: int
) -> dict[str, Any]:
    """The user's options, and what the factory wants to know of the data.

    A factory that passes any keyword on, as the large libraries' do, is told ``num_classes``, and ``in_chans`` of
    images that do not have the usual three.
    """
    channels = input_shape[0]
    known = {"input_shape": input_shape, "in_chans": channels, "in_channels": channels}
    known |= {"class_count": class_count, "num_classes": class_count}
    try:
        signature = inspect.signature(factory)
    except ValueError:
        # Of a function written in C nothing is known.
        return dict(options.options)
    names = set(signature.parameters)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values()):
        names |= {"num_classes"} | ({"in_chans"} if channels != USUAL_CHANNELS else set())
    arguments = {name: value for name, value in known.items() if name in names} | dict(options.options)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        expected = ", ".join(signature.parameters) or "no options"
        raise UsageError(
            "the options do not fit the factory", where=options.factory, found=str(error), expected=expected
        ) from None
    return arguments


def _try(module: nn.Module, name: str, input_shape: Shape, class_count: int) -> None:
    """Run the module once, without a trace in its statistics."""
    was = module.training
    module.eval()
    with torch.no_grad(), Quoted(name, f"the module fails on images of shape {input_shape}"):
        logits = module(torch.zeros(TRIAL, *input_shape))
    module.train(was)
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != (TRIAL, class_count):
        raise UsageError(
            "the module does not give one logit for each class",
            where=name,
            found=found,
            expected=f"({TRIAL}, {class_count}) for {TRIAL} images",
            remedy="let the factory take class_count or num_classes, and return logits alone",
        )


@contextmanager
def _current_folder() -> Iterator[None]:
    """Let modules in the current folder be imported, before those that are installed."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


class Quoted(AbstractContextManager[None]):
    """Turns whatever error other people's code raises into a UsageError that quotes it."""

    def __init__(self, where: str, message: str) -> None:
        self.where = where
        self.message = message

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, FieldkitError):
            found = f"{type(error).__name__}: {error}"
            raise UsageError(self.message, where=self.where, found=found) from error
