"""The rule of a network's first layers, a convolution and an instance normalisation, taken together.

The input of the first convolution does not train, and there are few patches values K = in * kh * kw.  With P the
patches less their mean over the image's places, [K, places], and C = P P^T / places their covariance,

    normalised = (A * W) P + beta,   A = gamma * rstd,   rstd = 1 / sqrt(diag(W C W^T) + eps):

one matrix product gives the layer's output without a pass over a tensor of its size, and neither statistics nor
gradients need one either.  With G = dy P^T, s1 = sum(dy), s2 = sum(W * G) and M = W C, per image and channel,

    dW = sum_n A * (G - rstd^2 * s2 * M),   dgamma = sum_n rstd * s2,   dbeta = sum_n s1.

The convolution's bias cancels, and its gradient is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules.call import Call, Pullback
from fieldkit.hq.compiler.rules.window import kernel_matrix, kernel_of_matrix, patches, window_of


def applies(convolution: Sequence[Any], normalisation: Sequence[Any]) -> bool:
    """Whether these two calls, by their arguments, are such first layers."""
    x, weight, _bias, stride, padding, dilation, groups = convolution
    channels, scale, offset = normalisation[1:4]
    if x.rank != 4 or x.trains or not weight.trains or scale is None or offset is None or groups != 1:
        return False
    size = window_of(weight, stride, padding, dilation)
    height, width = size.output(x.size(2), x.size(3))
    values = weight.size(1) * size.kernel[0] * size.kernel[1]
    # Covariances cost K per value of the patches, the convolution ``out``.
    return bool(channels == weight.size(0) and 2 * values <= weight.size(0) and height * width > values)


def convolution_and_norm(
    call: Call,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    _groups: int,
    _channels: int,
    gamma: Value,
    beta: Value,
    eps: float,
    _cudnn: bool,
) -> tuple[Value, Pullback | None]:
    """Both calls as one product of the scaled kernel with centred patches; takes the arguments of one, then the other.

    The variance of an output channel is its kernel's quadratic form in the patches' covariance, and its mean is 0 by
    centring, so that neither the convolution's output nor its bias is ever needed.
    """
    graph = call.graph
    out = weight.size(0)
    all_patches = patches(graph, x, window_of(weight, stride, padding, dilation))
    centred = graph.op("Sub", all_patches, graph.mean(all_patches, [2], keep=True))
    batch, values, places = centred.sizes
    flipped = graph.transpose(centred, (0, 2, 1))
    covariance = graph.op("Mul", graph.op("MatMul", centred, flipped), graph.constant(1.0 / places, "float32"))
    matrix = kernel_matrix(graph, weight)
    spread = graph.op("MatMul", matrix, covariance)
    variance = graph.sum(graph.op("Mul", spread, matrix), [2], keep=True)
    rstd = graph.op("Reciprocal", graph.op("Sqrt", graph.op("Add", variance, graph.constant(eps, "float32"))))
    gain = graph.op("Mul", rstd, graph.reshape(gamma, (out, 1)))
    # A row of ones beside the patches carries the offset, and brings the sum of the gradient back.
    with_ones = graph.pad(centred, [1], [0], [1], 1.0)
    offsets = graph.op("Expand", graph.reshape(beta, (1, out, 1)), graph.constant([batch, 1, 1], "int64"))
    scaled = graph.op("Concat", graph.op("Mul", gain, matrix), offsets, axis=2)
    y = graph.op("MatMul", scaled, with_ones)

    def pullback(gradient: Value) -> tuple[Value | None, ...]:
        dy = graph.reshape(gradient, (batch, out, places))
        products = graph.op("MatMul", dy, graph.transpose(with_ones, (0, 2, 1)))
        along = graph.slice(products, 2, 0, values)
        second = graph.sum(graph.op("Mul", along, matrix), [2], keep=True)
        slope = graph.op("Mul", graph.op("Mul", rstd, rstd), second)
        each = graph.op("Mul", gain, graph.op("Sub", along, graph.op("Mul", slope, spread)))
        dweight = kernel_of_matrix(graph, graph.sum(each, [0], keep=False), weight)
        dgamma = graph.reshape(graph.sum(graph.op("Mul", rstd, second), [0], keep=False), (out,))
        first = graph.slice(products, 2, values, values + 1)
        dbeta = graph.reshape(graph.sum(first, [0], keep=False), (out,))
        dbias = None if bias is None else graph.constant(np.zeros(out), "float32")
        return None, dweight, dbias, None, None, None, None, None, dgamma, dbeta

    return graph.reshape(y, call.shape), pullback
