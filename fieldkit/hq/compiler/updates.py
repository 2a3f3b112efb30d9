"""What a train step does with its gradients: clip them, let the optimiser move the parameters, average the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from fieldkit.bundle.recipe import AVERAGE, Tensor
from fieldkit.errors import UsageError
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.nodes import Value
from fieldkit.hq.compiler.optimisers import Optimiser, Sgd, Slot

# As torch.nn.utils.clip_grad_norm_ adds it to the norm.
CLIP_EPS = 1e-6


@dataclass(frozen=True)
class Regularisation:
    """What keeps a training steady, all of it off by default.

    clip_norm: the largest norm of all gradients together (Pascanu et al. 2013).  average: decay of the moving average
    of the weights, which then is the model (Polyak & Juditsky 1992), corrected for its start as Adam's moments are.
    label_smoothing: the share of each target that is spread over all classes in use (Szegedy et al. 2016).
    """

    clip_norm: float | None = None
    average: float | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.clip_norm is not None and not 0.0 < self.clip_norm < float("inf"):
            raise UsageError("out of range", where="clip_norm", found=self.clip_norm, expected="above 0")
        if self.average is not None and not 0.0 < self.average < 1.0:
            raise UsageError("out of range", where="average", found=self.average, expected="between 0 and 1")
        if not 0.0 <= self.label_smoothing < 1.0:
            expected = "at least 0 and below 1"
            raise UsageError("out of range", where="label_smoothing", found=self.label_smoothing, expected=expected)


@dataclass(frozen=True)
class Moved:
    """A tensor of the model in a step: what it was; its gradient, or its new value where training only carries it."""

    name: str
    value: Value
    gradient: Value | None = None
    carried: Value | None = None


@dataclass(frozen=True)
class Update:
    """The optimiser and what surrounds it."""

    optimiser: Optimiser = field(default_factory=Sgd)
    regularisation: Regularisation = field(default_factory=Regularisation)

    def state_tensors(self, parameters: Sequence[Tensor], buffers: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The states that a program of these trained parameters and carried buffers has, in its order; 0 at first."""
        own = [(each, state) for each in parameters for state in self.optimiser.states]
        if self.regularisation.average is not None:
            own += [(each, AVERAGE) for each in (*parameters, *buffers)]
        return tuple(Tensor(f"{state}.{each.name}", each.shape, ("constant", 0.0)) for each, state in own)

    def write(
        self, graph: Graph, moved: Sequence[Moved], states: Mapping[str, Value], rate: Value, step: Value
    ) -> dict[str, Value]:
        """Write the whole update; returns new values by ``param.NAME`` and ``state.NAME``.

        states: by the names of ``state_tensors``.  rate, step: float32 scalars; step counts from 0.
        """
        made: dict[str, Value] = {}
        clipped = self._clipped(graph, moved)
        for each in moved:
            if each.carried is not None:
                made[f"param.{each.name}"] = each.carried
                continue
            own = {state: states[f"{state}.{each.name}"] for state in self.optimiser.states}
            slot = Slot(each.value, clipped[each.name], own)
            made[f"param.{each.name}"], new = self.optimiser.update(graph, slot, rate, step)
            made |= {f"state.{state}.{each.name}": value for state, value in new.items()}
        if self.regularisation.average is not None:
            kept, fresh = _shares(graph, self.regularisation.average, step)
            for each in moved:
                name = f"{AVERAGE}.{each.name}"
                old = graph.op("Mul", states[name], kept)
                made[f"state.{name}"] = graph.op("Add", old, graph.op("Mul", made[f"param.{each.name}"], fresh))
        return made

    def _clipped(self, graph: Graph, moved: Sequence[Moved]) -> dict[str, Value]:
        """The gradients, scaled down together where their norm is above the limit."""
        slopes = {each.name: each.gradient for each in moved if each.gradient is not None}
        limit = self.regularisation.clip_norm
        if limit is None:
            return slopes
        squares = [graph.sum(graph.op("Mul", each, each), range(each.rank), keep=False) for each in slopes.values()]
        most, eps, one = (graph.constant(number, "float32") for number in (limit, CLIP_EPS, 1.0))
        norm = graph.op("Add", graph.op("Sqrt", graph.op("Sum", *squares)), eps)
        scale = graph.op("Min", graph.op("Div", most, norm), one)
        return {name: graph.op("Mul", each, scale) for name, each in slopes.items()}


def _shares(graph: Graph, decay: float, step: Value) -> tuple[Value, Value]:
    """The weights of the old average and of the new value, float32 scalars, so that the average of t values is

    sum(decay^(t - i) * value_i) / sum(decay^(t - i)): at first the value itself.  In float64 inside, since 1 - decay^t
    cancels.
    """
    one, base = graph.constant(1.0, "float64"), graph.constant(decay, "float64")
    power = graph.op("Pow", base, graph.cast(step, "float64"))
    before = graph.op("Sub", one, power)
    after = graph.op("Sub", one, graph.op("Mul", power, base))
    fresh = graph.op("Div", graph.op("Sub", one, base), after)
    return graph.cast(graph.op("Div", graph.op("Mul", base, before), after), "float32"), graph.cast(fresh, "float32")


class TorchUpdate:
    """torch's own update of the same settings: the reference that parity compares with."""

    def __init__(self, update: Update, model: nn.Module, trained: frozenset[str], buffers: Sequence[str]) -> None:
        self.update = update
        self.parameters = {name: each for name, each in model.named_parameters() if name in trained}
        everything = dict(model.named_buffers())
        self.buffers = {name: everything[name] for name in buffers}
        optimiser = update.optimiser
        self.torch = optimiser.reference(self.parameters.values(), optimiser.trial_rate)
        self.averages: dict[str, torch.Tensor] = {}
        self.steps = 0

    def step(self, rate: float | None = None) -> None:
        """Take the gradients that the parameters hold; ``rate`` replaces the optimiser's trial rate."""
        if rate is not None:
            for group in self.torch.param_groups:
                group["lr"] = rate
        regularisation = self.update.regularisation
        if regularisation.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), regularisation.clip_norm)
        self.torch.step()
        if regularisation.average is not None:
            decay = regularisation.average
            fresh = (1.0 - decay) / (1.0 - decay ** (self.steps + 1))
            for name, value in (self.parameters | self.buffers).items():
                before = self.averages.get(name, torch.zeros_like(value))
                self.averages[name] = (before + (value - before) * fresh).detach().clone()
        self.steps += 1

    def model(self) -> dict[str, torch.Tensor]:
        """What a device would export: parameters and buffers by name, or their averages where the update keeps them."""
        return {
            name: self.averages.get(name, value).detach() for name, value in (self.parameters | self.buffers).items()
        }

    def states(self) -> dict[str, torch.Tensor]:
        """Every state, by the names of ``Update.state_tensors``."""
        found: dict[str, torch.Tensor] = {}
        if self.update.regularisation.average is not None:
            for name, value in (self.parameters | self.buffers).items():
                found[f"{AVERAGE}.{name}"] = self.averages.get(name, torch.zeros_like(value))
        for name, parameter in self.parameters.items():
            own = self.update.optimiser.reference_state(self.torch, parameter)
            found |= {f"{state}.{name}": value for state, value in own.items()}
        return found
