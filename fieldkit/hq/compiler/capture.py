"""A torch module as a graph of ATen calls, by torch.export."""

from __future__ import annotations

import contextlib
import io
import linecache
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram

from fieldkit.errors import ProgramError

TORCH = os.path.dirname(torch.__file__)
# Whatever the model's own code raises when it is run on tensors without values.
FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, LookupError, ArithmeticError)


def capture(module: nn.Module, inputs: Mapping[str, torch.Tensor], *, free_batch: bool = False) -> ExportedProgram:
    """Trace ``module(**inputs)`` to ATen calls; ``free_batch`` leaves the first axis of every input open.

    Raises ProgramError for a module that torch cannot trace, with the path of the part that stops it.
    """
    shapes = {name: {0: Dim("N")} for name in inputs} if free_batch else None
    try:
        with _own_words():
            program = torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes)
        program = _functional(program) if _changes_tensors(program) else program
    except FAILURES as error:
        path, line = _place(module, error)
        reason = str(error).splitlines()[0].rstrip(".")[:300]
        raise ProgramError(
            "torch cannot trace this model",
            where=path or type(module).__name__,
            found=f"{reason}, in line: {line}" if line else reason,
            expected="tensors from beginning to end, and the same calls whatever they hold",
            remedy="use torch.where in place of if, loops of a fixed number, and no float(), item() or numpy()",
        ) from error
    return program


@contextmanager
def _own_words() -> Iterator[None]:
    """Keep torch from printing what the error says, and from one warning.

    A module may keep tensors that it can compute again, as LeViT does with attention biases.  Torch takes what is kept
    during export back afterwards, and the captured calls compute it anew: nothing is lost that the warning is about.
    """
    told, shapes = io.StringIO(), logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = shapes.level
    shapes.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(told):
            warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export", UserWarning)
            yield
    finally:
        shapes.setLevel(level)
    sys.stderr.write(told.getvalue())


def _place(module: nn.Module, error: BaseException) -> tuple[str, str]:
    """The innermost part of ``module`` that was running when tracing failed, and its line, as far as they are known."""
    names = {id(each): name for name, each in module.named_modules()}
    path, line = "", ""
    cause: BaseException | None = error
    while cause is not None:
        for frame, number in traceback.walk_tb(cause.__traceback__):
            arguments = frame.f_code.co_varnames[:1]
            owner = names.get(id(frame.f_locals.get(arguments[0]))) if arguments else None
            path = owner or path
            if path and not frame.f_code.co_filename.startswith(TORCH):
                line = linecache.getline(frame.f_code.co_filename, number).strip()
        cause = cause.__cause__ or cause.__context__
    return path, line


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
