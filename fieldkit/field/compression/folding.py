"""Arithmetic on weights alone, done once: what stands between a weight and the layer that reads it.

Quantisation looks for layers whose weights are constants.  The compiler leaves reshaped weights to onnxruntime, which
folds them when it opens a model, and a batch normalisation after a convolution is one more convolution.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fieldkit.field.programs.graph import Graph, Node


def fold(graph: Graph) -> None:
    """Reshape and transpose weights where they stand, and take batch normalisations into the convolutions before."""
    place = 0
    while place < len(graph.nodes):
        node = graph.nodes[place]
        folded = _fold_normalisation(graph, node) if node.operator == "BatchNormalization" else _fold_shape(graph, node)
        place += not folded
    graph.drop_unread()


def _fold_shape(graph: Graph, node: Node) -> bool:
    """Whether ``node`` only gave a weight another shape, and is gone."""
    weight = node.inputs[0] if node.inputs else ""
    if weight not in graph.tensors or graph.sole_reader(weight) is not node or node.outputs[0] in graph.outputs:
        return False
    values = graph.tensors[weight]
    if node.operator == "Reshape" and node.inputs[1] in graph.tensors and not node.number("allowzero", 0):
        wanted = [int(n) for n in graph.tensors[node.inputs[1]]]
        # 0 keeps the length that the weight has along this axis.
        graph.tensors[weight] = values.reshape([values.shape[axis] if n == 0 else n for axis, n in enumerate(wanted)])
    elif node.operator == "Transpose":
        graph.tensors[weight] = np.ascontiguousarray(values.transpose(node.numbers("perm")))
    else:
        return False
    graph.nodes.remove(node)
    graph.redirect(node.outputs[0], weight)
    return True


def _fold_normalisation(graph: Graph, node: Node) -> bool:
    """Whether y = (conv(x) - mean) / sqrt(variance + epsilon) * scale + offset became one convolution."""
    convolution = next((each for each in graph.nodes if node.inputs[0] in each.outputs), None)
    if convolution is None or convolution.operator != "Conv" or graph.sole_reader(node.inputs[0]) is not node:
        return False
    weight, bias = (*convolution.inputs[1:], "")[:2]
    changed = [weight, *filter(None, [bias])]
    if not all(name in graph.tensors for name in (*changed, *node.inputs[1:])):
        return False
    if any(graph.sole_reader(name) is not convolution for name in changed):
        return False
    scale, offset, mean, variance = (graph.tensors[name].astype(np.float64) for name in node.inputs[1:])
    factor = scale / np.sqrt(variance + node.number("epsilon", 1e-5))
    kernel = graph.tensors[weight]
    before = graph.tensors[bias].astype(np.float64) if bias else 0.0
    named = bias or graph.free_name(f"{weight}.offset")
    graph.tensors[weight] = (kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))).astype(np.float32)
    graph.tensors[named] = (offset + (before - mean) * factor).astype(np.float32)
    merged = replace(convolution, inputs=(convolution.inputs[0], weight, named), outputs=node.outputs)
    graph.nodes[graph.nodes.index(convolution)] = merged
    graph.nodes.remove(node)
    return True
