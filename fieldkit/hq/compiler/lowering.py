"""A captured module's calls as ONNX nodes, with a tape for the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from fieldkit.errors import ProgramError
from fieldkit.hq.compiler.capture import module_path
from fieldkit.hq.compiler.graph import Graph, stopped
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.remedies import remedy
from fieldkit.hq.compiler.rules import FUSIONS, RULES
from fieldkit.hq.compiler.rules.call import Call, Pullback, Rule

# Calls that only state facts about tensors; their results are never used.
STATEMENTS = {"aten._assert_tensor_metadata.default", "aten._assert_scalar.default", "aten.sym_constrain_range.default"}
GRADIENTS_ON_OR_OFF = torch.ops.higher_order.wrap_with_set_grad_enabled


@dataclass(frozen=True)
class Entry:
    """One differentiable call: where its outputs came from and how their gradients go back."""

    outputs: tuple[Value, ...]
    arguments: tuple[Any, ...]
    pullback: Pullback


@dataclass
class Lowered:
    """outputs: what the module returned.  tape: the differentiable calls, in order.

    buffers: the new values of the buffers that the module changed, by their names in it.
    """

    outputs: tuple[Value, ...] = ()
    buffers: dict[str, Value] = field(default_factory=dict)
    tape: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class _Postponed:
    """The arguments of a call that is compiled together with the one that reads its result."""

    arguments: list[Any]
    rule: Rule


def lower(program: ExportedProgram, graph: Graph, bindings: Mapping[str, Value]) -> Lowered:
    """Write a captured program's calls into ``graph``.

    bindings: a value for each input and parameter, by argument name or by the parameter's name in the module; also for
    the buffers that the program carries, by their names in the module.  Other buffers, and parameters that the
    model's author froze, become constants.

    Raises ProgramError for a call that no rule covers.
    """
    return _Lowering(program, graph).run(bindings)


class _Lowering:
    def __init__(self, program: ExportedProgram, graph: Graph) -> None:
        self.program = program
        self.graph = graph
        self.known: dict[fx.Node, Any] = {}
        self.lowered = Lowered()
        self.made: set[int] = set()

    def run(self, bindings: Mapping[str, Value]) -> Lowered:
        specs = iter(self.program.graph_signature.input_specs)
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.known[node] = self._bound(next(specs), bindings)
            elif node.op == "output":
                self._finish(node)
            else:
                self._step(node)
        return self.lowered

    def _step(self, node: fx.Node) -> None:
        """Know what one node of the captured program gives."""
        if node.op == "get_attr":
            self.known[node] = getattr(node.graph.owning_module, str(node.target))
        elif node.target is GRADIENTS_ON_OR_OFF:
            self.known[node] = self._part(*node.args)
        elif isinstance(node.meta.get("val"), torch.SymInt):
            # A size that depends on the batch: rules read shapes from torch's description of their results.
            self.known[node] = None
        elif str(node.target) not in STATEMENTS:
            self.known[node] = self._postponed(node) or self._result(node)

    def _part(self, differentiable: Any, part: Any, *arguments: Any) -> tuple[Any, ...]:
        """What a part of the program gives that was captured on its own, under torch.no_grad or torch.enable_grad."""
        given: Iterator[Any] = iter(arguments)
        made: tuple[Any, ...] = ()
        for node in self.known[part].graph.nodes:
            if node.op == "placeholder":
                self.known[node] = self.known[next(given)]
            elif node.op == "output":
                made = tuple(self.known[each] for each in node.args[0])
            else:
                self._step(node)
        return made if differentiable else tuple(stopped(each) for each in made)

    def _finish(self, node: fx.Node) -> None:
        """Sort what the captured program returns into the module's own outputs and the buffers that it changed."""
        outputs = []
        for spec, each in zip(self.program.graph_signature.output_specs, node.args[0], strict=True):  # type: ignore[arg-type]
            if spec.kind == OutputKind.BUFFER_MUTATION:
                self.lowered.buffers[str(spec.target)] = self.known[each]
            else:
                outputs.append(self.known[each])
        self.lowered.outputs = tuple(outputs)

    def _bound(self, spec: Any, bindings: Mapping[str, Value]) -> Value:
        if spec.kind in (InputKind.BUFFER, InputKind.PARAMETER) and spec.target not in bindings:
            # Buffers that are not saved with the model are kept with the constants.
            stored = self.program.state_dict if spec.target in self.program.state_dict else self.program.constants
            return self.graph.constant(stored[spec.target].detach().numpy())
        if spec.kind == InputKind.CONSTANT_TENSOR:
            return self.graph.constant(self.program.constants[spec.target].detach().numpy())
        return bindings[spec.arg.name if spec.kind == InputKind.USER_INPUT else spec.target]

    def _result(self, node: fx.Node) -> Any:
        """What a call returns: a Value, or a tuple of them."""
        if getattr(node.target, "__name__", "") == "getitem":
            return self.known[node.args[0]][node.args[1]]  # type: ignore[index]
        if "val" not in node.meta:
            raise _no_rule(node)
        result = node.meta["val"]
        if isinstance(result, torch.Tensor) and not node.all_input_nodes and str(node.target) not in RULES:
            return self.graph.constant(_computed(node))
        arguments, rule = self._arguments(node), RULES.get(str(node.target))
        if arguments and isinstance(arguments[0], _Postponed):
            first = arguments[0]
            arguments, rule = [*first.arguments, *arguments[1:]], first.rule
        if rule is None:
            raise _no_rule(node)
        outputs, pullback = rule(Call(self.graph, module_path(node), str(node.target), result), *arguments)
        values: tuple[Value, ...] = outputs if isinstance(outputs, tuple) else (outputs,)
        if pullback is None:
            values = tuple(stopped(each) if each.trains else each for each in values)
        elif any(each.trains for each in values):
            # Equal calls are one node.  What two operators compute alike (clamp and hardtanh) has two ways back.
            values = tuple(replace(each) if id(each) in self.made else each for each in values)
            self.made.update(id(each) for each in values)
            self.lowered.tape.append(Entry(values, tuple(arguments), pullback))
        return values if isinstance(outputs, tuple) else values[0]

    def _postponed(self, node: fx.Node) -> _Postponed | None:
        """This call as a part of the next, where the two have a rule in common."""
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        fusion = FUSIONS.get((str(node.target), str(reader.target))) if reader is not None else None
        if reader is None or fusion is None or reader.args[0] is not node:
            return None
        if any(each not in self.known for each in reader.all_input_nodes if each is not node):
            return None
        arguments = self._arguments(node)
        if not fusion.applies(arguments, self._arguments(reader)):
            return None
        return _Postponed(arguments, fusion.rule)

    def _arguments(self, node: fx.Node) -> list[Any]:
        """All arguments in the order of the operator's schema, tensors as Values, defaults filled in."""

        def value(argument: Any) -> Any:
            if isinstance(argument, fx.Node):
                return self.known.get(argument)
            if isinstance(argument, list | tuple):
                return [value(each) for each in argument]
            return argument

        schema: Sequence[Any] = node.target._schema.arguments  # type: ignore[union-attr]
        given = {each.name: argument for each, argument in zip(schema, node.args, strict=False)} | node.kwargs
        return [value(given[each.name]) if each.name in given else each.default_value for each in schema]


def _computed(node: fx.Node) -> Any:
    """The value of a call that takes no tensor, such as arange: torch itself computes it."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise _no_rule(node)
    target: Callable[..., torch.Tensor] = node.target  # type: ignore[assignment]
    return target(*node.args, **node.kwargs).detach().numpy()


def _no_rule(node: fx.Node) -> ProgramError:
    return ProgramError(
        "no rule compiles this operator",
        where=module_path(node),
        found=str(node.target),
        expected="an operator that docs/program.md lists",
        remedy=remedy(str(node.target).split(".")[1]),
    )
