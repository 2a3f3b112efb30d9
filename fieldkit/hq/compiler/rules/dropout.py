"""Rules of what is random: dropout, Bernoulli and uniform numbers, and the empty tensors that they fill.

Every random is a uniform in [0, 1) that the host draws for each step; ``compiler/randomness.py`` says what becomes of
it, and makes torch do the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fieldkit.hq.compiler.nodes import Dim, Value
from fieldkit.hq.compiler.randomness import threshold
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.masks import above

Made = tuple[Value, Pullback | None]

# -alpha * scale of SELU: alpha dropout (Klambauer et al. 2017, section 2) puts it for what it drops.
SELU_FLOOR = -1.7580993408473766


def _uniforms(call: Call, shape: Sequence[Dim]) -> Value:
    sizes = [n for n in shape if isinstance(n, int)]
    if len(sizes) < len(shape):
        raise call.refuse("randoms in a prediction", "randoms in training only", "draw only where self.training is set")
    return call.graph.random(sizes)


def _ones(call: Call, uniforms: Value, chance: float) -> Value:
    """1.0 with the given chance, else 0.0."""
    return above(call.graph, uniforms, threshold(chance), equal=True)


def _kept(call: Call, x: Value, probability: float, *, channels: bool) -> Value:
    """1.0 for what dropout keeps, by a random for each element or for each image's channel; 0 for all if p is 1."""
    if probability == 1:
        return call.graph.constant(0.0, "float32")
    shape = (*x.shape[:2], *(1 for _ in x.shape[2:])) if channels else x.shape
    return _ones(call, _uniforms(call, shape), 1.0 - probability)


def _dropout(*, channels: bool) -> Rule:
    """Dropout of single elements, or of whole channels of an image."""

    def rule(call: Call, x: Value, probability: float, train: bool) -> Made:
        if not train or probability == 0:
            return x, lambda dy: (dy,)
        return _scaled(call, x, _kept(call, x, probability, channels=channels), probability)

    return rule


def _scaled(call: Call, x: Value, kept: Value, probability: float) -> Made:
    """x where it is kept, times 1 / (1 - p) to keep the sum."""
    graph = call.graph
    scale = 0.0 if probability == 1 else 1.0 / (1.0 - probability)
    factor = graph.op("Mul", kept, graph.constant(scale, "float32"))
    return graph.op("Mul", x, factor), lambda dy: (graph.op("Mul", dy, factor),)


def native_dropout(
    call: Call, x: Value, probability: float, train: bool | None
) -> tuple[tuple[Value, Value], Pullback | None]:
    """Dropout, with the mask of what was kept beside it."""
    graph = call.graph
    everything = graph.op("Equal", x, x)
    if train is False or probability == 0:
        return (x, everything), lambda dy, _mask: (dy,)
    kept = _kept(call, x, probability, channels=False)
    y, back = _scaled(call, x, kept, probability)
    mask = graph.op("And", everything, graph.cast(kept, "bool"))
    return (y, mask), lambda dy, _mask: back(dy) if back is not None else ()


def _alpha_dropout(*, channels: bool) -> Rule:
    """Dropout to SELU's lowest value, then an affine map that keeps mean and variance."""

    def rule(call: Call, x: Value, probability: float, train: bool) -> Made:
        if not train or probability == 0:
            return x, lambda dy: (dy,)
        kept = _kept(call, x, probability, channels=channels)
        if probability == 1:
            return _scaled(call, x, kept, probability)
        graph = call.graph
        scale = 1.0 / math.sqrt((SELU_FLOOR**2 * probability + 1.0) * (1.0 - probability))
        factor = graph.op("Mul", kept, graph.constant(scale, "float32"))
        # What torch adds, scale * floor * ((1 - kept) - p), with its constants as one.
        level = graph.constant(scale * SELU_FLOOR * (1.0 - probability), "float32")
        offset = graph.op("Sub", level, graph.op("Mul", factor, graph.constant(SELU_FLOOR, "float32")))
        return graph.op("Add", graph.op("Mul", x, factor), offset), lambda dy: (graph.op("Mul", dy, factor),)

    return rule


def bernoulli(call: Call, x: Value, chance: Value | float | None = None, _generator: Any = None) -> Made:
    """1 with the given chance, by default that in x itself, whose shape the result has."""
    chance = x if chance is None else chance
    uniforms = _uniforms(call, call.shape)
    if not isinstance(chance, Value):
        return call.tensor(_ones(call, uniforms, chance)), None
    graph = call.graph
    limit = graph.op("Sub", graph.constant(1.0, "float32"), call.tensor(chance, "float32"))
    return call.tensor(graph.op("GreaterOrEqual", uniforms, limit)), None


def bernoulli_of_chances(call: Call, chances: Value, _generator: Any = None) -> Made:
    """1 with the chance that each element says, else 0."""
    return bernoulli(call, chances)


def uniform(call: Call, _x: Value, low: float = 0.0, high: float = 1.0, _generator: Any = None) -> Made:
    """Uniform randoms in [low, high), in the shape of the tensor they fill."""
    graph = call.graph
    spread = graph.op("Mul", _uniforms(call, call.shape), graph.constant(high - low, "float32"))
    return call.tensor(graph.op("Add", spread, graph.constant(low, "float32"))), None


def rand(call: Call, *_settings: Any) -> Made:
    """Uniform randoms in [0, 1)."""
    return call.tensor(_uniforms(call, call.shape)), None


def empty(call: Call, *_settings: Any) -> Made:
    """Zeros, for a call in place to overwrite; as a node, which costs nothing once nobody reads it."""
    graph = call.graph
    if any(isinstance(n, str) for n in call.shape):
        raise call.refuse("an empty tensor of the batch's size", "a static shape", "make it of the input's own values")
    return graph.op("Expand", call.tensor(0), graph.constant(call.shape, "int64")), None


RULES: dict[str, Rule] = {
    "aten.dropout.default": _dropout(channels=False),
    "aten.feature_dropout.default": _dropout(channels=True),
    "aten.native_dropout.default": native_dropout,
    "aten.alpha_dropout.default": _alpha_dropout(channels=False),
    "aten.feature_alpha_dropout.default": _alpha_dropout(channels=True),
    "aten.bernoulli.default": bernoulli_of_chances,
    "aten.bernoulli.p": bernoulli,
    "aten.bernoulli.Tensor": bernoulli,
    "aten.rand.default": rand,
    "aten.rand_like.default": rand,
    "aten.uniform.default": uniform,
    "aten.new_empty.default": empty,
    "aten.empty_like.default": empty,
    "aten.empty.memory_format": empty,
}
