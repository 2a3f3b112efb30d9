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

import numpy as np

from fieldkit.hq.compiler.graph import Graph, stopped
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule
from fieldkit.hq.compiler.rules.standardisation import Moments, filled, rescale, standardise

Made = tuple[Value, Pullback | None]
MadeThree = tuple[tuple[Value, Value, Value], Pullback | None]

# Up to this many pixels an image, onnxruntime sums faster over the images first.
FEW_PIXELS = 32


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
        if math.prod(x.sizes[2:]) < FEW_PIXELS:
            inner, outer, beside = [0], [axis - 1 for axis in pixels], (x.size(1), *(1 for _ in pixels))
        else:
            inner, outer, beside = pixels, [0], (1, x.size(1))
        sums = graph.sum(dy, inner, keep=False)
        products = graph.sum(graph.op("Mul", dy, x), inner, keep=False)
        centred = graph.op("Sub", products, graph.op("Mul", sums, graph.reshape(self.moments.mean, beside)))
        second = graph.op("Mul", graph.sum(centred, outer, keep=False), rstd)
        return graph.sum(sums, outer, keep=False), second


def _beside(x: Value) -> tuple[int, ...]:
    """The shape in which a number per channel broadcasts against x."""
    return (x.size(1), *(1 for _ in range(2, x.rank)))


def _values_per_channel(x: Value) -> int:
    return math.prod(x.sizes) // x.size(1)


def _by_batch(call: Call, x: Value, weight: Value | None, bias: Value | None, eps: float) -> tuple[Value, _Norm]:
    y, moments = standardise(call.graph, x, eps, weight, bias)
    return y, _Norm(call.graph, x, weight, bias, moments, measured=True)


def _frozen(call: Call, x: Value, weight: Value | None, bias: Value | None, moments: Moments) -> tuple[Value, _Norm]:
    """One affine map per channel, in the form that onnxruntime folds into a convolution before it."""
    graph = call.graph
    scale = filled(graph, 1.0, x.size(1)) if weight is None else weight
    offset = filled(graph, 0.0, x.size(1)) if bias is None else bias
    return rescale(graph, x, moments, scale, offset), _Norm(graph, x, weight, bias, moments, measured=False)


def batch_norm(
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    training: bool,
    _momentum: float,
    eps: float,
    _cudnn: bool = False,
) -> Made:
    """Batch normalisation that changes no running statistics: frozen, or without them."""
    if mean is not None and variance is not None and not training:
        y, norm = _frozen(call, x, weight, bias, Moments(mean, variance, eps))
        return y, norm.pullback
    if mean is not None or variance is not None:
        raise call.refuse(
            "running statistics that a function updates",
            "a module that owns them, or none",
            "use torch.nn.BatchNorm2d, or pass None for running_mean and running_var",
        )
    y, norm = _by_batch(call, x, weight, bias, eps)
    return y, norm.pullback


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
    """As ``batch_norm``, with the batch's mean and 1 / std beside it; frozen, torch leaves these two empty."""
    y, pullback = batch_norm(call, x, weight, bias, mean, variance, training, _momentum, eps)
    if mean is not None:
        empty = call.graph.constant(np.zeros(0), "float32")
        return (y, empty, empty), pullback
    _, moments = standardise(call.graph, x, eps, weight, bias)
    return (y, stopped(moments.mean), stopped(moments.rstd(call.graph))), pullback


def batch_norm_of_batch(
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> MadeThree:
    """Without running statistics there is nothing else than the batch's to use, whatever ``training`` says."""
    return native_batch_norm(call, x, weight, bias, None, None, training, momentum, eps)


def batch_norm_frozen(
    call: Call,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    variance: Value,
    momentum: float,
    eps: float,
) -> MadeThree:
    return native_batch_norm(call, x, weight, bias, mean, variance, False, momentum, eps)


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
    y, norm = _by_batch(call, x, weight, bias, eps)
    moments = norm.moments

    def carried(running: Value, now: Value, share: float) -> Value:
        kept = graph.op("Mul", running, graph.constant(1.0 - momentum, "float32"))
        return stopped(graph.op("Add", kept, graph.op("Mul", now, graph.constant(share, "float32"))))

    new_mean = carried(mean, moments.mean, momentum)
    new_variance = carried(variance, moments.variance, momentum * count / (count - 1))
    saved = stopped(moments.mean), stopped(moments.rstd(graph))
    return (y, *saved, new_mean, new_variance), norm.pullback


RULES: dict[str, Rule] = {
    "aten.batch_norm.default": batch_norm,
    "aten.native_batch_norm.default": native_batch_norm,
    "aten._native_batch_norm_legit.no_stats": batch_norm_of_batch,
    "aten._native_batch_norm_legit_no_training.default": batch_norm_frozen,
    "aten._native_batch_norm_legit_functional.default": batch_norm_carrying,
}
