"""What a model's last layer reads: an output of its own, for whoever compares images as the model sees them.

A model only gives probabilities; this names a tensor in between as one more output.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fieldkit.field.engine.session import open_session, run_session
from fieldkit.field.models.prediction import BATCH
from fieldkit.field.programs.graph import Graph, Node, read_graph, with_outputs

PROBABILITIES = "probabilities"
LAYERS = ("Gemm", "MatMul", "Conv")
TINY = 1e-7


def features(model: bytes, images: np.ndarray, threads: int | None = None) -> np.ndarray:
    """Features float32 [n, f] of images [n, c, h, w] in the model's native counts.

    They are what the last linear layer or convolution reads; the logarithms of the probabilities for a model that has
    none.  Raises ProgramError if onnxruntime cannot run the model.
    """
    graph = read_graph(model, "model")
    name = last_read(graph)
    session = open_session(with_outputs(graph, [] if name is None else [name]), "model", threads)
    found = []
    for first in range(0, len(images), BATCH):
        made = run_session(session, {"images": np.ascontiguousarray(images[first : first + BATCH])}, "model")
        found.append(np.log(np.maximum(made[0], TINY)) if name is None else made[-1].reshape(len(made[-1]), -1))
    return np.concatenate(found)


def last_read(graph: Graph) -> str | None:
    """The name of what the last layer before the probabilities reads; None if no layer leads to them."""
    makers: Mapping[str, Node] = {name: node for node in graph.nodes for name in node.outputs}
    node = makers.get(PROBABILITIES)
    while node is not None and node.operator not in LAYERS:
        # An addition of a bias has the layer on either side.
        node = next((makers[name] for name in node.inputs if name in makers), None)
    if node is None or node.inputs[0] not in makers:
        return None
    return node.inputs[0]
