"""Model, loss and optimiser compiled ahead of time into plain ONNX programs; docs/program.md is their contract."""

from fieldkit.hq.compiler.optimisers import OPTIMISERS, AdamW, Optimiser, Sgd
from fieldkit.hq.compiler.parity import Parity
from fieldkit.hq.compiler.recipes import Compiled, Data, compile_model, compile_recipe, network

__all__ = [
    "OPTIMISERS",
    "AdamW",
    "Compiled",
    "Data",
    "Optimiser",
    "Parity",
    "Sgd",
    "compile_model",
    "compile_recipe",
    "network",
]
