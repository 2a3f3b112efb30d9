"""The last layer of a model, solved: ridge regression from features to classes, old and new together.

Few samples fit a last layer in closed form better than in steps of gradients, and features that are left alone keep
what they know (Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", ICLR
2022, measure both).  Distilled images tell the old classes, a device's own samples the new ones.  With X the features
and Y the classes as rows of 0 and 1, both less their weighted means,

    W = (X' D X + s I)^-1 X' D Y,    s = STRENGTH x the mean eigenvalue of X' D X,

D holding the samples' weights.  The rows get the mean length that the layer's had, since a model's probabilities come
from a softmax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fieldkit.field.models.features import features, last_read
from fieldkit.field.programs.graph import Node, read_graph

Weights = Mapping[str, np.ndarray]
PREFIX = "param."
STRENGTH = 0.25


@dataclass(frozen=True)
class LastLayer:
    """Parameter names, without prefix, of a linear layer's weight [k, f] and of its bias [k], if it has one."""

    weight: str
    bias: str | None


def solved(
    model: bytes, weights: Weights, images: np.ndarray, targets: np.ndarray, shares: np.ndarray
) -> Weights | None:
    """``weights`` with those of the last layer that tell the samples' classes apart best; None if it is not linear, or
    there is but one class.

    model: complete, with these weights.  images: native counts [n, c, h, w].
    targets: int64 [n], places among the model's outputs; those that no sample has keep their rows.
    shares: float64 [n], how much each sample counts.
    """
    layer, present = find_last_layer(model), np.unique(targets)
    if layer is None or len(present) < 2:
        return None
    read = features(model, images)
    rows, offsets = ridge(read, np.searchsorted(present, targets), shares, offset=layer.bias is not None)
    matrix = weights[layer.weight].copy()
    scale = np.linalg.norm(matrix, axis=1).mean() / max(np.linalg.norm(rows, axis=1).mean(), 1e-12)
    matrix[present] = scale * rows
    made = {layer.weight: matrix}
    if layer.bias is not None:
        made[layer.bias] = weights[layer.bias].copy()
        made[layer.bias][present] = scale * offsets
    return {**weights, **made}


def ridge(
    rows: np.ndarray, targets: np.ndarray, shares: np.ndarray, *, offset: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Weights float64 [k, f] and offsets float64 [k] from features [n, f], int64 [n] targets, and what each counts.

    offset: whether there may be any; otherwise they are 0 and nothing is centred.
    Solved in the samples' space where there are fewer of them than features, which gives the same.
    """
    wide, classes, share = rows.astype(np.float64), np.eye(int(targets.max()) + 1)[targets], shares / shares.sum()
    middle, level = (share @ each if offset else np.zeros(each.shape[1]) for each in (wide, classes))
    root = np.sqrt(share)[:, None]
    left, right = (wide - middle) * root, (classes - level) * root
    narrow = len(left) < left.shape[1]
    square = left @ left.T if narrow else left.T @ left
    # Of the mean eigenvalue of X'DX, which has as many as there are features.
    strength = STRENGTH * max(float(np.sum(left**2)), 1e-12) / left.shape[1]
    damped = square + strength * np.eye(len(square))
    found = left.T @ np.linalg.solve(damped, right) if narrow else np.linalg.solve(damped, left.T @ right)
    return found.T, level - middle @ found


def find_last_layer(model: bytes) -> LastLayer | None:
    """The linear layer before a model's probabilities; None if there is another kind of layer."""
    graph = read_graph(model, "model")
    read = last_read(graph)
    layers = [] if read is None else [each for each in graph.readers(read) if each.operator == "Gemm"]
    if len(layers) != 1 or layers[0].inputs[0] != read or layers[0].number("transB", 0) != 1:
        return None
    makers = {name: each for each in graph.nodes for name in each.outputs}
    names = [_parameter(name, makers) for name in layers[0].inputs[1:]]
    if None in names:
        return None
    return LastLayer(str(names[0]), names[1] if len(names) > 1 else None)


def _parameter(name: str, makers: Mapping[str, Node]) -> str | None:
    """The parameter that a tensor is; the compiler may say a matrix's shape once more."""
    made = makers.get(name)
    source = made.inputs[0] if made is not None and made.operator == "Reshape" else name
    return source.removeprefix(PREFIX) if source.startswith(PREFIX) else None
