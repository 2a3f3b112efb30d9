"""A torch module as a graph of ATen calls, by torch.export."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from fieldkit.errors import ProgramError


def capture(module: nn.Module, inputs: Mapping[str, torch.Tensor], *, free_batch: bool = False) -> ExportedProgram:
    """Trace ``module(**inputs)`` to ATen calls; ``free_batch`` leaves the first axis of every input open."""
    shapes = {name: {0: Dim("N")} for name in inputs} if free_batch else None
    try:
        program = torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes)
        program = _functional(program) if _changes_tensors(program) else program
    except (RuntimeError, ValueError, TypeError) as error:
        raise ProgramError(
            "torch cannot trace this model",
            where=type(module).__name__,
            found=str(error).splitlines()[0][:300],
            remedy="remove control flow that depends on the values of tensors",
        ) from error
    return program


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program with calls that make a new tensor for those that change one in place; nothing else is decomposed."""
    with warnings.catch_warnings():
        # torch 2.13 warns of its own use of a deprecated function.
        warnings.simplefilter("ignore", FutureWarning)
        return cast(ExportedProgram, program.run_decompositions({}))


def _changes_tensors(program: ExportedProgram) -> bool:
    schemas = (getattr(node.target, "_schema", None) for node in program.graph.nodes)
    return any(schema is not None and schema.is_mutable for schema in schemas)


def module_path(node: fx.Node) -> str:
    """Where in the model a call was made, such as ``model.blocks.0.conv``."""
    stack: Sequence[tuple[str, Any]] = list((node.meta.get("nn_module_stack") or {}).values())
    return next((path for path, _ in reversed(stack) if path), "") or "the model"
