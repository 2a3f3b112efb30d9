"""Weights and activations of 8 bits: a trained model whose convolutions and products run on integers.

Every Conv, Gemm and MatMul with a constant weight reads quantised tensors through DequantizeLinear, which is the form
("QDQ") that onnxruntime turns into its integer kernels, and that any other runtime computes in float with the same
result but for rounding.  The scheme is that of Jacob et al. 2018, Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference, equation 1: real = scale * (stored - zero point).

weights      int8, symmetric, one scale for each output channel.
activations  uint8, one scale and zero point for the tensor, from ``calibration``.
biases       int32, scale = the input's scale times the weight's.

Weights go to 64 and not to 127, because processors without VNNI add two products of uint8 and int8 in 16 bits, where
2 * 255 * 127 overflows without a word and 2 * 255 * 64 does not.
"""

from __future__ import annotations

import numpy as np

from fieldkit.field.compression.calibration import SMALLEST, STEPS, Range, observe
from fieldkit.field.programs.graph import Graph, Node

LAYERS = ("Conv", "Gemm", "MatMul")
SCHEME = {"weights": "int8 to 64, per channel", "activations": "uint8, per tensor", "ranges": "least squares"}
"""The choices above in words, for a model's metadata."""
WEIGHT_LIMIT = 64
BIAS_LIMIT = 2**31 - 1


def quantise(graph: Graph, images: np.ndarray, threads: int | None = None) -> int:
    """Quantise every layer of ``graph`` that can be, in place; the number of layers.

    images: what to calibrate on, [n, c, h, w] of the model's own dtype.
    The graph's weights must stand beside the layers that read them: see ``folding.fold``.
    """
    layers = [node for node in graph.nodes if _is_quantisable(graph, node)]
    made = {_result(graph, node) for node in layers if node.operator == "Conv"}
    read = {node.inputs[0] for node in layers}
    seen = observe(graph, sorted(made | read), images, threads)
    scalings = {name: activation_scale(histogram.best_range()) for name, histogram in seen.items()}
    for node in layers:
        _quantise_layer(graph, node, scalings[node.inputs[0]][0])
    for name, scaling in scalings.items():
        _quantise_activation(graph, name, scaling, None if name in made else {node.outputs for node in layers})
    return len(layers)


def weight_scales(values: np.ndarray, axis: int | None) -> np.ndarray:
    """float32 scales of a weight: one for each slice along ``axis``, or a single one of shape ()."""
    others = None if axis is None else tuple(each for each in range(values.ndim) if each != axis)
    scales: np.ndarray = np.maximum(np.abs(values).max(others) / WEIGHT_LIMIT, SMALLEST).astype(np.float32)
    return scales


def activation_scale(ends: Range) -> tuple[np.ndarray, np.ndarray]:
    """Scale, float32 (), and zero point, uint8 (), of the values between two ends that hold 0 between them."""
    scale = np.float32(max((ends[1] - ends[0]) / STEPS, SMALLEST))
    return np.array(scale), np.clip(np.rint(-ends[0] / scale), 0, STEPS).astype(np.uint8)


def _is_quantisable(graph: Graph, node: Node) -> bool:
    """A layer of onnxruntime's integer kernels: its own float32 weights inside the model, and a plain product."""
    if node.operator not in LAYERS or node.inputs[0] in graph.tensors:
        return False
    held = [name for name in node.inputs[1:] if name]
    if not all(name in graph.tensors and graph.sole_reader(name) is node for name in held):
        return False
    weight, *bias = (graph.tensors[name] for name in held)
    plain = node.number("alpha", 1.0) == 1.0 and node.number("beta", 1.0) == 1.0 and not node.number("transA", 0)
    one_each = all(each.ndim == 1 and each.size == weight.shape[_channel_axis(node, weight) or 0] for each in bias)
    return plain and one_each and weight.ndim >= 2 and all(graph.tensors[name].dtype == np.float32 for name in held)


def _result(graph: Graph, node: Node) -> str:
    """The tensor that a convolution makes, after a ReLU that reads nothing else: the two run as one."""
    reader = graph.sole_reader(node.outputs[0])
    return reader.outputs[0] if reader is not None and reader.operator == "Relu" else node.outputs[0]


def _channel_axis(node: Node, weight: np.ndarray) -> int | None:
    """The axis of a layer's weight along which its output channels lie; None where scales cannot follow them."""
    if node.operator == "Conv":
        return 0
    if node.operator == "Gemm":
        return 0 if node.number("transB", 0) else 1
    return 1 if weight.ndim == 2 else None


def _quantise_layer(graph: Graph, node: Node, input_scale: np.ndarray) -> None:
    """Let a layer read a weight and a bias that are integers."""
    weight, bias = (*node.inputs[1:], "")[:2]
    values = graph.tensors[weight]
    axis = _channel_axis(node, values)
    scales = weight_scales(values, axis)
    if bias:
        # A bias that is huge beside its channel's weights must not overflow.
        scales = np.maximum(scales, np.abs(graph.tensors[bias]) / (input_scale * np.float32(BIAS_LIMIT)))
    shape = [1] * values.ndim
    shape[axis or 0] = scales.size
    _store(graph, weight, np.rint(values / scales.reshape(shape)).astype(np.int8), scales, axis)
    if bias:
        steps = scales * input_scale
        stored = np.clip(np.rint(graph.tensors[bias] / steps.astype(np.float64)), -BIAS_LIMIT, BIAS_LIMIT)
        _store(graph, bias, stored.astype(np.int32), steps, 0)


def _store(graph: Graph, name: str, stored: np.ndarray, scales: np.ndarray, axis: int | None) -> None:
    """Keep a tensor as integers, under its own name; what reads it reads it dequantised."""
    dequantised, scale = graph.free_name(f"{name}.float"), graph.free_name(f"{name}.scale")
    graph.redirect(name, dequantised)
    graph.tensors |= {name: stored, scale: scales}
    inputs = [name, scale]
    if stored.dtype == np.int8:
        # 0, as it would be without: but onnxruntime takes no Gemm for its integer kernel whose weight does not say so.
        inputs.append(graph.free_name(f"{name}.zero"))
        graph.tensors[inputs[-1]] = np.zeros_like(scales, np.int8)
    along = {} if axis is None else {"axis": axis}
    graph.nodes.insert(0, Node.make("DequantizeLinear", inputs, dequantised, **along))


def _quantise_activation(
    graph: Graph, name: str, scaling: tuple[np.ndarray, np.ndarray], layers: set[tuple[str, ...]] | None
) -> None:
    """Let those that read the tensor ``name`` read it quantised and dequantised.

    scaling: scale and zero point.  layers: the outputs of the nodes that shall; None for all.
    """
    scale, zero, stored, dequantised = (
        graph.free_name(f"{name}.{part}") for part in ("scale", "zero", "stored", "float")
    )
    graph.tensors |= dict(zip((scale, zero), scaling, strict=True))
    graph.redirect(name, dequantised, layers)
    maker = next((place for place, node in enumerate(graph.nodes) if name in node.outputs), -1)
    graph.nodes[maker + 1 : maker + 1] = [
        Node.make("QuantizeLinear", [name, scale, zero], stored),
        Node.make("DequantizeLinear", [stored, scale, zero], dequantised),
    ]
