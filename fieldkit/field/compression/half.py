"""Weights of 16 bits: a model file of half the size, computed in float32 as before.

The weights are stored as float16, and a Cast where they are read makes them float32 again.  onnxruntime does that once,
when it opens the model, so that speed and memory stay those of the float model; a graph that also computes in float16
is slower on processors, which is where a device without a graphics card runs it.
"""

from __future__ import annotations

import numpy as np

from fieldkit.field.programs.graph import Graph, Node
from fieldkit.field.programs.tensors import ELEMENT_TYPES

# Smaller tensors than this would grow by their Cast.
WORTH_IT = 64
LARGEST = float(np.finfo(np.float16).max)


def halve(graph: Graph) -> int:
    """Store every large float32 tensor of ``graph`` that float16 can hold as that, in place; the number of them."""
    # Scales of integers stay where the integer kernels look for them.
    scales = {node.inputs[1] for node in graph.nodes if node.operator in ("QuantizeLinear", "DequantizeLinear")}
    chosen = [name for name, values in graph.tensors.items() if name not in scales and _suits(values)]
    for name in chosen:
        widened = graph.free_name(f"{name}.float")
        graph.redirect(name, widened)
        graph.tensors[name] = graph.tensors[name].astype(np.float16)
        graph.nodes.insert(0, Node.make("Cast", [name], widened, to=ELEMENT_TYPES["float32"]))
    return len(chosen)


def _suits(values: np.ndarray) -> bool:
    return values.dtype == np.float32 and values.size >= WORTH_IT and bool(np.abs(values).max() <= LARGEST)
