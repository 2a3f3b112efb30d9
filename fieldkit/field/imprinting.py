"""First weights of new classes in a model's last layer: the mean of their features, as in weight imprinting.

Qi, Brown & Lowe, "Low-Shot Learning with Imprinted Weights", CVPR 2018: a class's weight vector is the mean of its
samples' features, all of length 1.  Differs in that features are measured from the mean over all classes, because a
plain linear layer, unlike their cosine classifier, reads features that are all positive and nearly parallel; in that
the length is the mean length of the known classes' rows; and in a bias that puts a class's mean feature and the mean
over all classes on either side of the known classes' mean bias.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fieldkit.field.features import features, last_read
from fieldkit.field.onnx_graph import read_graph

PREFIX = "param."
Weights = Mapping[str, np.ndarray]


def imprinted(model: bytes, weights: Weights, images: np.ndarray, targets: np.ndarray, known: int) -> Weights:
    """``weights`` with rows of the last layer for the classes from ``known`` on.

    model: complete, with these weights.  images: native counts [n, c, h, w] of the new classes and of known ones.
    targets: int64 [n], places of classes among the model's outputs.
    A model whose last layer is not linear keeps its weights as they are.
    """
    names = head(model)
    if names is None:
        return weights
    weight, bias = names
    rows = {slot: features(model, images[targets == slot]) for slot in np.unique(targets)}
    means = {slot: each.mean(axis=0, dtype=np.float64) for slot, each in rows.items()}
    middle = np.mean(list(means.values()), axis=0)
    matrix = weights[weight].reshape(len(weights[weight]), -1).copy()
    length = float(np.linalg.norm(matrix[:known], axis=1).mean())
    level = 0.0 if bias is None else float(weights[bias][:known].mean())
    offsets = None if bias is None else weights[bias].copy()
    for slot, mean in means.items():
        if slot < known:
            continue
        away = mean - middle
        matrix[slot] = away * (length / max(float(np.linalg.norm(away)), 1e-12))
        if offsets is not None:
            offsets[slot] = level - matrix[slot] @ ((mean + middle) / 2)
    made = {weight: matrix.reshape(weights[weight].shape)}
    return {**weights, **made, **({} if bias is None or offsets is None else {bias: offsets})}


def head(model: bytes) -> tuple[str, str | None] | None:
    """Parameter names, without prefix, of the last layer's weight and bias; None if it is not linear."""
    graph = read_graph(model, "model")
    read = last_read(graph)
    node = None if read is None else next((each for each in graph.readers(read) if each.operator == "Gemm"), None)
    if node is None or node.inputs[0] != read or node.number("transB", 0) != 1:
        return None
    made = {name: each for each in graph.nodes for name in each.outputs}
    names = []
    for name in node.inputs[1:]:
        # The compiler may say the shape of a matrix once more.
        source = made[name].inputs[0] if name in made and made[name].operator == "Reshape" else name
        if not source.startswith(PREFIX):
            return None
        names.append(source.removeprefix(PREFIX))
    return names[0], names[1] if len(names) > 1 else None
