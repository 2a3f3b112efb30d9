"""Layers of a network in another form, in their places."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def replaced(module: nn.Module, form: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """``module`` itself, each layer inside it replaced by its ``form``, where that is not None."""
    for parent in module.modules():
        # Not named_children(), which tells a layer that stands in two places once.
        for name, child in [*parent._modules.items()]:
            other = None if child is None else form(child)
            if other is not None:
                setattr(parent, name, other)
    return module
