"""A torch module as a graph of ATen calls, and that graph as ONNX nodes with a tape for the way back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from fieldkit.errors import ProgramError
from fieldkit.hq.compiler.graph import Graph, stopped
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.rules import RULES
from fieldkit.hq.compiler.rules.call import Call, Pullback

# Calls that only state facts about tensors; their results are never used.
STATEMENTS = {"aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten.sym_constrain_range.default"}


@dataclass(frozen=True)
class Entry:
    """One differentiable call: where its outputs came from and how their gradients go back."""

    outputs: tuple[Value, ...]
    arguments: tuple[Any, ...]
    pullback: Pullback


@dataclass
class Lowered:
    """outputs: what the module returned.  tape: the differentiable calls, in order."""

    outputs: tuple[Value, ...]
    tape: list[Entry] = field(default_factory=list)


def capture(module: nn.Module, inputs: Mapping[str, torch.Tensor], *, free_batch: bool = False) -> ExportedProgram:
    """Trace ``module(**inputs)`` to ATen calls; ``free_batch`` leaves the first axis of every input open."""
    shapes = {name: {0: Dim("N")} for name in inputs} if free_batch else None
    try:
        program = torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes)
        return _functional(program) if _changes_tensors(program) else program
    except (RuntimeError, ValueError, TypeError) as error:
        raise ProgramError(
            "torch cannot trace this model",
            where=type(module).__name__,
            found=str(error).splitlines()[0][:300],
            remedy="remove control flow that depends on the values of tensors",
        ) from error


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The program with calls that make a new tensor for those that change one in place; nothing else is decomposed."""
    with warnings.catch_warnings():
        # torch 2.13 warns of its own use of a deprecated function.
        warnings.simplefilter("ignore", FutureWarning)
        return cast(ExportedProgram, program.run_decompositions({}))


def _changes_tensors(program: ExportedProgram) -> bool:
    schemas = (getattr(node.target, "_schema", None) for node in program.graph.nodes)
    return any(schema is not None and schema.is_mutable for schema in schemas)


def lower(program: ExportedProgram, graph: Graph, bindings: Mapping[str, Value]) -> Lowered:
    """Write a captured program's calls into ``graph``.

    bindings: a value for each input and parameter, by argument name or by the parameter's name in the module.
    Buffers become constants.
    """
    _refuse_mutation(program)
    known: dict[fx.Node, Any] = {}
    specs = iter(program.graph_signature.input_specs)
    lowered = Lowered(())
    for node in program.graph.nodes:
        if node.op == "placeholder":
            known[node] = _bound(program, next(specs), graph, bindings)
        elif node.op == "output":
            lowered.outputs = tuple(known[each] for each in node.args[0])
        elif str(node.target) not in STATEMENTS:
            known[node] = _lower_call(node, graph, known, lowered.tape)
    return lowered


def _bound(program: ExportedProgram, spec: Any, graph: Graph, bindings: Mapping[str, Value]) -> Value:
    if spec.kind == InputKind.BUFFER:
        return graph.constant(program.state_dict[spec.target].detach().numpy())
    if spec.kind == InputKind.CONSTANT_TENSOR:
        return graph.constant(program.constants[spec.target].detach().numpy())
    return bindings[spec.target if spec.kind == InputKind.PARAMETER else spec.arg.name]


def _refuse_mutation(program: ExportedProgram) -> None:
    changed = program.graph_signature.buffers_to_mutate
    if changed:
        raise ProgramError(
            "the model changes a buffer while it trains",
            where=", ".join(sorted(changed.values())),
            remedy="use group normalisation in place of batch normalisation",
        )


def _lower_call(node: fx.Node, graph: Graph, known: Mapping[fx.Node, Any], tape: list[Entry]) -> Any:
    if getattr(node.target, "__name__", "") == "getitem":
        return known[node.args[0]][node.args[1]]  # type: ignore[index]
    arguments = _arguments(node, known)
    result = node.meta["val"]
    if isinstance(result, torch.Tensor) and not node.all_input_nodes:
        return graph.constant(_computed(node))
    rule = RULES.get(str(node.target))
    if rule is None:
        raise _no_rule(node)
    call = Call(graph, module_path(node), str(node.target), result)
    outputs, pullback = rule(call, *arguments)
    values: tuple[Value, ...] = outputs if isinstance(outputs, tuple) else (outputs,)
    if pullback is None:
        values = tuple(stopped(each) if each.trains else each for each in values)
    elif any(each.trains for each in values):
        tape.append(Entry(values, tuple(arguments), pullback))
    return values if isinstance(outputs, tuple) else values[0]


def _arguments(node: fx.Node, known: Mapping[fx.Node, Any]) -> list[Any]:
    """All arguments in the order of the operator's schema, tensors as Values, defaults filled in."""

    def value(argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return known[argument]
        if isinstance(argument, list | tuple):
            return [value(each) for each in argument]
        return argument

    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = {each.name: argument for each, argument in zip(schema, node.args, strict=False)} | node.kwargs
    return [value(given[each.name]) if each.name in given else each.default_value for each in schema]


def _computed(node: fx.Node) -> Any:
    """The value of a call that takes no tensor, such as arange: torch itself computes it."""
    target: Callable[..., torch.Tensor] = node.target  # type: ignore[assignment]
    return target(*node.args, **node.kwargs).detach().numpy()


def module_path(node: fx.Node) -> str:
    """Where in the model a call was made, such as ``model.blocks.0.conv``."""
    stack: Sequence[tuple[str, Any]] = list((node.meta.get("nn_module_stack") or {}).values())
    return next((path for path, _ in reversed(stack) if path), "") or "the model"


def _no_rule(node: fx.Node) -> ProgramError:
    names = sorted({name.split(".")[1] for name in RULES})
    return ProgramError(
        "no rule compiles this operator",
        where=module_path(node),
        found=str(node.target),
        expected="one of " + ", ".join(names),
        remedy="use a layer made of these operators, or add a rule (docs/program.md says how)",
    )
