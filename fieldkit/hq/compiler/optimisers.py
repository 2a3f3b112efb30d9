"""Optimisers as frozen settings that write their own update into a train program.

Each also makes torch's own optimiser, which parity compares it with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from fieldkit.errors import UsageError
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value


@dataclass(frozen=True)
class Slot:
    """One parameter during its update: its value, its gradient and its states, by the optimiser's own names."""

    parameter: Value
    gradient: Value
    states: Mapping[str, Value]


class Optimiser(Protocol):
    """states: the names of what it carries for each parameter, each of the parameter's shape and 0 at first.

    trial_rate: a learning rate at which any sound model trains, for parity.
    usual_rate: where nobody names one; None takes the method's own, which is for SGD with momentum.
    """

    @property
    def trial_rate(self) -> float: ...

    @property
    def usual_rate(self) -> float | None: ...

    @property
    def states(self) -> tuple[str, ...]: ...

    def update(self, graph: Graph, slot: Slot, rate: Value, step: Value) -> tuple[Value, dict[str, Value]]:
        """The new parameter and its new states.  rate, step: float32 scalars; step counts from 0."""
        ...

    def reference(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        """torch's optimiser of the same settings."""
        ...

    def reference_state(self, optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """What ``reference`` carries for one parameter, by the names in ``states``."""
        ...


@dataclass(frozen=True)
class Sgd:
    """torch.optim.SGD: buffer = momentum * buffer + (g + weight_decay * p); p -= rate * buffer.

    Without momentum there is no buffer and p -= rate * (g + weight_decay * p).
    nesterov: p -= rate * (g + momentum * buffer) instead.  decoupled: weight decay takes rate * weight_decay * p from
    the parameter itself and stays out of the buffer (SGDW, Loshchilov & Hutter 2019).
    """

    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False
    decoupled: bool = False

    trial_rate: ClassVar[float] = 0.01
    usual_rate: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        _check("momentum", self.momentum, below=1.0)
        _check("weight_decay", self.weight_decay)
        if self.nesterov and not self.momentum:
            expected = "momentum above 0"
            raise UsageError("Nesterov's step needs a momentum", where="optimiser nesterov", expected=expected)

    @property
    def states(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def update(self, graph: Graph, slot: Slot, rate: Value, step: Value) -> tuple[Value, dict[str, Value]]:
        direction, parameter = slot.gradient, slot.parameter
        if self.weight_decay and not self.decoupled:
            direction = graph.op("Add", direction, _times(graph, parameter, self.weight_decay))
        states = {}
        if self.momentum:
            buffer = graph.op("Add", _times(graph, slot.states["momentum"], self.momentum), direction)
            states["momentum"] = buffer
            direction = graph.op("Add", direction, _times(graph, buffer, self.momentum)) if self.nesterov else buffer
        if self.weight_decay and self.decoupled:
            parameter = _decayed(graph, parameter, rate, self.weight_decay)
        return graph.op("Sub", parameter, graph.op("Mul", direction, rate)), states

    def reference(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        kind = _DecoupledSgd if self.decoupled else torch.optim.SGD
        decay, nesterov = self.weight_decay, self.nesterov
        return kind(parameters, lr=rate, momentum=self.momentum, weight_decay=decay, nesterov=nesterov)

    def reference_state(self, optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        if not self.momentum:
            return {}
        buffer = optimiser.state[parameter].get("momentum_buffer")
        return {"momentum": torch.zeros_like(parameter) if buffer is None else buffer}


@dataclass(frozen=True)
class AdamW:
    """torch.optim.AdamW (Loshchilov & Hutter 2019): decoupled weight decay, bias-corrected moments."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01

    trial_rate: ClassVar[float] = 0.001
    usual_rate: ClassVar[float | None] = 0.003

    def __post_init__(self) -> None:
        _check("beta1", self.beta1, below=1.0)
        _check("beta2", self.beta2, below=1.0)
        _check("eps", self.eps)
        _check("weight_decay", self.weight_decay)

    @property
    def states(self) -> tuple[str, ...]:
        return ("mean", "square")

    def update(self, graph: Graph, slot: Slot, rate: Value, step: Value) -> tuple[Value, dict[str, Value]]:
        gradient = slot.gradient
        fresh = _times(graph, gradient, 1 - self.beta1)
        mean = graph.op("Add", _times(graph, slot.states["mean"], self.beta1), fresh)
        fresh = _times(graph, graph.op("Mul", gradient, gradient), 1 - self.beta2)
        square = graph.op("Add", _times(graph, slot.states["square"], self.beta2), fresh)
        root = graph.op("Mul", graph.op("Sqrt", square), _correction(graph, self.beta2, step, -0.5))
        denominator = graph.op("Add", root, graph.constant(self.eps, "float32"))
        size = graph.op("Mul", rate, _correction(graph, self.beta1, step, -1.0))
        change = graph.op("Mul", graph.op("Div", mean, denominator), size)
        kept = slot.parameter
        if self.weight_decay:
            kept = _decayed(graph, kept, rate, self.weight_decay)
        return graph.op("Sub", kept, change), {"mean": mean, "square": square}

    def reference(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        betas = (self.beta1, self.beta2)
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, eps=self.eps, weight_decay=self.weight_decay)

    def reference_state(self, optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        state = optimiser.state[parameter]
        if not state:
            return {name: torch.zeros_like(parameter) for name in self.states}
        return {"mean": state["exp_avg"], "square": state["exp_avg_sq"]}


OPTIMISERS: dict[str, type[Sgd] | type[AdamW]] = {"sgd": Sgd, "adamw": AdamW}


class _DecoupledSgd(torch.optim.SGD):
    """torch's SGD whose weight decay acts on the parameters alone."""

    def step(self, closure: Any = None) -> Any:
        decays = [group["weight_decay"] for group in self.param_groups]
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = 0.0
            with torch.no_grad():
                for parameter in group["params"]:
                    parameter.mul_(1.0 - group["lr"] * decay)
        loss = super().step(closure)
        for group, decay in zip(self.param_groups, decays, strict=True):
            group["weight_decay"] = decay
        return loss


def _decayed(graph: Graph, parameter: Value, rate: Value, decay: float) -> Value:
    """parameter * (1 - rate * decay)."""
    one = graph.constant(1.0, "float32")
    return graph.op("Mul", parameter, graph.op("Sub", one, _times(graph, rate, decay)))


def _times(graph: Graph, value: Value, number: float) -> Value:
    return graph.op("Mul", value, graph.constant(number, value.dtype))


def _correction(graph: Graph, beta: float, step: Value, power: float) -> Value:
    """(1 - beta ** (step + 1)) ** power, in float64 inside because it cancels; float32 scalar."""
    count = graph.op("Add", graph.cast(step, "float64"), graph.constant(1.0, "float64"))
    decayed = graph.op("Pow", graph.constant(beta, "float64"), count)
    rest = graph.op("Sub", graph.constant(1.0, "float64"), decayed)
    return graph.cast(graph.op("Pow", rest, graph.constant(power, "float64")), "float32")


def _check(name: str, value: float, below: float = float("inf")) -> None:
    if not 0.0 <= value < below:
        limit = "" if below == float("inf") else f" and below {below:g}"
        raise UsageError("out of range", where=f"optimiser {name}", found=value, expected=f"at least 0{limit}")
