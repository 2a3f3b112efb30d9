"""Performance matching by random truncated backpropagation through time (RaT-BPTT).

Feng, Vedantam & Kempe, "Embarrassingly Simple Dataset Distillation", ICLR 2024 (arXiv 2311.07025), algorithm 1: a fresh
network trains on the distilled images for a random number of steps that leave no graph, then for a window of steps that
gradients flow through; its loss on real images moves what is distilled.  Adam trains the network, and the gradient is
cut by the moving average of its norm.

Differs in that soft labels are learnt too; that pixels pass the bundle's rounding; that the network trains under the
recipe's own augmentation and minibatches; and that the window's graph never exists as a whole: each step is computed
anew on the way back (checkpointing, Chen et al. 2016, arXiv 1604.06174), so memory is that of one step and of the
window's weights, however long the window is.

The device keeps its own recipe.  With ``inner`` "adam" the network inside trains as the authors' does, whatever the
device will do: what it teaches carries over, and regularisation is no obstacle.  With "device" it trains by the
recipe's optimiser, SGD or AdamW (``--optimiser``), and its schedule.  Either way it knows nothing of regularisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from fieldkit.bundle.recipe import Schedule
from fieldkit.errors import UsageError
from fieldkit.hq.compiler.optimisers import AdamW
from fieldkit.hq.distil.descent import Training, descend, real_loss
from fieldkit.hq.distil.distilled import DistilledSet, Moves
from fieldkit.hq.distil.problem import Problem, Snapshot, State

INNER = ("adam", "device")

Step = Callable[..., Training]


@dataclass(frozen=True)
class Settings:
    """How to unroll.

    window: differentiable steps in an iteration.  horizon: steps of a whole training, any of which a window ends with;
    None takes the recipe's number of steps.
    inner: what trains the network, "adam" at the constant ``inner_rate``, or the "device"'s optimiser and schedule.
    real: real images that score a network.  rate: Adam's step size for normalised pixels; label_rate: for label logits.
    sharpness: logit of an image's own class at the start.  contrast: standard deviation of the noise on first pixels.
    """

    window: int = 6
    horizon: int | None = 40
    inner: str = "adam"
    inner_rate: float = 4e-3
    real: int = 256
    rate: float = 0.04
    label_rate: float = 0.02
    sharpness: float = 4.0
    contrast: float = 0.1

    def __post_init__(self) -> None:
        if self.inner not in INNER:
            raise UsageError("unknown", where="bptt inner", found=self.inner, expected=" or ".join(INNER))
        if self.horizon is not None and self.horizon < self.window:
            expected = f"at least the window's {self.window}"
            raise UsageError("too short", where="bptt horizon", found=self.horizon, expected=expected)


class Bptt:
    """Images start as the classes' k-means centres with noise, so that no single real image is copied."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.inner = inner_problem(problem, settings)
        self.iteration = 0
        moves = Moves(
            start="centres",
            contrast=settings.contrast,
            rate=settings.rate,
            label_rate=settings.label_rate,
            sharpness=settings.sharpness,
            clip=True,
        )
        self.distilled = DistilledSet(problem, problem.rng(0), moves)

    def step(self, done: float) -> float:
        """Train a fresh network to a random place, unroll the window, and move what is distilled."""
        self.iteration += 1
        problem, real = self.problem, self.settings.real
        rng = problem.rng(self.iteration)
        seed = int(rng.integers(1 << 62))
        horizon = self.inner.schedule.steps
        window = min(self.settings.window, horizon)
        first = int(rng.integers(horizon - window + 1))
        positions = problem.workers.mine(rng.integers(len(problem.real), size=real))
        pixels, labels = self.distilled.seen(), self.distilled.labels()
        training = Training.begin(self.inner, seed)
        for _ in range(first):
            training = self._plain(training, pixels, labels)
        reached = [training]
        for _ in range(window):
            reached.append(self._plain(reached[-1], pixels, labels))
        tensors = cast(Any, _Window).apply(self._descend, reached, pixels, labels)
        weights = _filled(reached[-1], tensors).weights
        loss = real_loss(problem, weights, positions, real)
        self.distilled.move(loss, done)
        return problem.workers.total(loss)

    def snapshot(self) -> Snapshot:
        return self.distilled.snapshot()

    def state(self) -> State:
        return {"iteration": self.iteration, "distilled": self.distilled.state()}

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.distilled.restore(state["distilled"])

    def _descend(
        self, training: Training, pixels: torch.Tensor, labels: torch.Tensor, *, differentiable: bool = False
    ) -> Training:
        rate = self.inner.schedule.learning_rate(training.step)
        return descend(self.inner, training, pixels, labels, rate, differentiable=differentiable)

    def _plain(self, training: Training, pixels: torch.Tensor, labels: torch.Tensor) -> Training:
        """``training`` after its next step; no graph is left."""
        return self._descend(training.detached(), pixels.detach(), labels.detach()).detached()


class _Window(torch.autograd.Function):
    """Where a training has come to, as a function of pixels and labels; ``reached`` holds all of its steps.

    On the way back each step is computed anew, with its graph, from what it began with.
    """

    @staticmethod
    def forward(
        ctx: Any, step: Step, reached: list[Training], pixels: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.step, ctx.begun = step, reached[:-1]
        ctx.save_for_backward(pixels, labels)
        return tuple(each.detach() for each in _tensors(reached[-1]))

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> Any:
        pixels, labels = (each.detach().requires_grad_(True) for each in ctx.saved_tensors)
        totals = torch.zeros_like(pixels), torch.zeros_like(labels)
        for begun in reversed(ctx.begun):
            before = [each.detach().requires_grad_(True) for each in _tensors(begun)]
            with torch.enable_grad():
                after = ctx.step(_filled(begun, before), pixels, labels, differentiable=True)
            found = torch.autograd.grad(_tensors(after), [pixels, labels, *before], slopes, materialize_grads=True)
            for total, each in zip(totals, found, strict=False):
                total += each
            slopes = found[len(totals) :]
        return None, None, *totals


def inner_problem(problem: Problem, settings: Settings) -> Problem:
    """The problem whose optimiser and schedule train the network inside."""
    steps = settings.horizon or problem.schedule.steps
    if settings.inner == "device":
        return replace(problem, schedule=problem.schedule.with_steps(steps))
    schedule = Schedule(steps, problem.schedule.batch, "constant", settings.inner_rate)
    return replace(problem, optimiser=AdamW(weight_decay=0.0), schedule=schedule)


def _tensors(training: Training) -> tuple[torch.Tensor, ...]:
    return (*training.weights.values(), *training.states.values())


def _filled(training: Training, tensors: Sequence[torch.Tensor]) -> Training:
    """``training`` with these tensors in place of its own."""
    split = len(training.weights)
    weights = dict(zip(training.weights, tensors[:split], strict=True))
    return replace(training, weights=weights, states=dict(zip(training.states, tensors[split:], strict=True)))
