"""Rules of batch normalisation: by the statistics of the batch, and by frozen ones.

With gain = weight * rstd, S1 = sum(dy), S2 = sum(dy * (x - mean)) * rstd over the m values of a channel,

    dx = gain * dy - (x - mean) * rstd * gain * S2 / m - gain * S1 / m,   dweight = S2,   dbias = S1:

everything but dy and x is one number per channel.  The centred tensor is never made: S2 comes from sum(dy * x), row by
row of pixels less the row's mean * sum(dy), so that what cancels is still short.  As in torch, y and the term in x are
one affine map of x.  Frozen statistics leave dx = gain * dy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.hq.compiler.graph import Graph, stopped
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.standardisation import Moments, rescale, standardise
from fieldkit.hq.compiler.rules.sums import SHORT, averaged, filled, inner, summed

Made = tuple[Value, Pullback | None]
MadeThree = tuple[tuple[Value, Value, Value], Pullback | None]


@dataclass(frozen=True)
class _Norm:
    """One batch normalisation that was written: what its way back needs."""

    graph: Graph
    x: Value
    weight: Value | None
    bias: Value | None
    moments: Moments
    measured: bool

    def pullback(self, dy: Value, *_statistics: Value | None) -> tuple[Value | None, ...]:
        graph, rstd = self.graph, self.moments.rstd(self.graph)
        first, second = self._sums(dy, rstd)
        gain = rstd if self.weight is None else graph.op("Mul", rstd, self.weight)
        dx = graph.op("Mul", dy, graph.reshape(gain, _beside(self.x)))
        if self.measured:
            share = graph.op("Mul", gain, graph.constant(-1.0 / _values_per_channel(self.x), "float32"))
            slope, level = graph.op("Mul", share, second), graph.op("Mul", share, first)
            dx = graph.op("Add", dx, rescale(graph, self.x, self.moments, slope, level))
        return dx, None if self.weight is None else second, None if self.bias is None else first

    def _sums(self, dy: Value, rstd: Value) -> tuple[Value, Value]:
        """S1 and S2, float32[c]: sums over neighbouring axes first, then over what is left of each channel."""
        graph, x = self.graph, self.x
        pixels = list(range(2, x.rank))
        if math.prod(x.sizes[2:]) < SHORT:
            first, then = [0], pixels
            products = summed(graph, graph.op("Mul", dy, x), first, keep=True)
        else:
            first, then = pixels, [0]
            products = inner(graph, dy, x, len(pixels))
        sums = summed(graph, dy, first, keep=True)
        mean = graph.reshape(self.moments.mean, _beside(x))
        centred = graph.op("Sub", products, graph.op("Mul", sums, mean))
        sums, centred = (graph.reshape(summed(graph, each, then, keep=True), (x.size(1),)) for each in (sums, centred))
        return sums, graph.op("Mul", centred, rstd)


def _beside(x: Value) -> tuple[int, ...]:
    """The shape in which a number per channel broadcasts against x."""
    return (x.size(1), *(1 for _ in range(2, x.rank)))


def _values_per_channel(x: Value) -> int:
    return math.prod(x.sizes) // x.size(1)


def _written(
    call: Call,
    x: Value,
    affine: tuple[Value | None, Value | None],
    running: tuple[Value | None, Value | None],
    training: bool,
    eps: float,
) -> tuple[Value, _Norm]:
    """Batch normalisation that changes no running statistics: frozen, or without them."""
    mean, variance = running
    if mean is None or variance is None:
        return _by_batch(call.graph, x, affine, eps)
    if training:
        raise call.refuse(
            "running statistics that a function updates",
            "a module that owns them, or none",
            "use torch.nn.BatchNorm2d, or pass None for running_mean and running_var",
        )
    return _by_moments(call.graph, x, affine, Moments(mean, variance, eps), measured=False)


def _by_batch(graph: Graph, x: Value, affine: tuple[Value | None, Value | None], eps: float) -> tuple[Value, _Norm]:
    if isinstance(x.shape[0], str):
        return _by_moments(graph, x, affine, _moments(graph, x, eps), measured=True)
    y, moments = standardise(graph, x, eps, *affine)
    return y, _Norm(graph, x, *affine, moments, measured=True)


def _moments(graph: Graph, x: Value, eps: float) -> Moments:
    """Mean and variance of each channel, for a free batch too."""
    cells = [axis for axis in range(x.rank) if axis != 1]
    mean = averaged(graph, x, cells)
    centred = graph.op("Sub", x, mean)
    variance = averaged(graph, graph.op("Mul", centred, centred), cells)
    return Moments(graph.reshape(mean, (x.size(1),)), graph.reshape(variance, (x.size(1),)), eps)


def _by_moments(
    graph: Graph, x: Value, affine: tuple[Value | None, Value | None], moments: Moments, *, measured: bool
) -> tuple[Value, _Norm]:
    """One affine map per channel, in the form that onnxruntime folds into a convolution before it."""
    scale, offset = (
        filled(graph, number, x.size(1)) if each is None else each
        for each, number in zip(affine, (1.0, 0.0), strict=True)
    )
    return rescale(graph, x, moments, scale, offset), _Norm(graph, x, *affine, moments, measured)


def native_batch_norm(
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    _momentum: float,
    eps: float,
) -> MadeThree:
    """(x - mean) * rstd of each channel, then a scale and an offset; and the batch's mean and rstd beside it.

    Frozen, torch leaves the last two empty.
    """
    y, norm = _written(call, x, (weight, bias), (mean, variance), training, eps)
    return (y, *_saved(call.graph, norm)), norm.pullback


def batch_norm(call: Call, *arguments: Any) -> Made:
    """As ``native_batch_norm``, the output alone; takes a setting of cuDNN after the same arguments."""
    (y, *_saved), pullback = native_batch_norm(call, *arguments[:8])
    return y, pullback


def _saved(graph: Graph, norm: _Norm) -> tuple[Value, Value]:
    if norm.measured:
        return stopped(norm.moments.mean), stopped(norm.moments.rstd(graph))
    empty = graph.constant(np.zeros(0), "float32")
    return empty, empty


def batch_norm_of_batch(call: Call, *arguments: Any) -> MadeThree:
    """Without running statistics there is nothing else than the batch's to use, whatever ``training`` says."""
    x, weight, bias, *settings = arguments
    return native_batch_norm(call, x, weight, bias, None, None, *settings)


def batch_norm_frozen(call: Call, *arguments: Any) -> MadeThree:
    """By the running statistics: ``native_batch_norm`` without the argument ``training``."""
    x, weight, bias, mean, variance, *settings = arguments
    return native_batch_norm(call, x, weight, bias, mean, variance, False, *settings)


def batch_norm_carrying(
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[tuple[Value, ...], Pullback | None]:
    """Batch normalisation in training: also the running statistics after this step, the variance there unbiased."""
    graph = call.graph
    if not training:
        three, back = batch_norm_frozen(call, x, weight, bias, mean, variance, momentum, eps)
        return (*three, mean, variance), back
    count = _values_per_channel(x)
    if count == 1:
        raise call.refuse("one value per channel", "two or more", "use a larger batch or a larger image")
    y, norm = _by_batch(graph, x, (weight, bias), eps)

    def carried(running: Value, now: Value, share: float) -> Value:
        kept = graph.op("Mul", running, graph.constant(1.0 - momentum, "float32"))
        return stopped(graph.op("Add", kept, graph.op("Mul", now, graph.constant(share, "float32"))))

    new_mean = carried(mean, norm.moments.mean, momentum)
    new_variance = carried(variance, norm.moments.variance, momentum * count / (count - 1))
    return (y, *_saved(graph, norm), new_mean, new_variance), norm.pullback


RULES: dict[str, Rule] = {
    "aten.batch_norm.default": batch_norm,
    "aten.native_batch_norm.default": native_batch_norm,
    "aten._native_batch_norm_legit.no_stats": batch_norm_of_batch,
    "aten._native_batch_norm_legit_no_training.default": batch_norm_frozen,
    "aten._native_batch_norm_legit_functional.default": batch_norm_carrying,
}
