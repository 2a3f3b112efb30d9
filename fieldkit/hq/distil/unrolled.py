"""Performance matching by unrolled training.

Wang, Zhu, Torralba & Efros, "Dataset Distillation", 2018 (arXiv 1811.10959), algorithm 1: train a network on the
distilled images for a few steps of gradient descent, measure its loss on real images, and move images and learning
rate down the gradient of that loss through all of the steps.

Differs in what has been learnt since: soft labels are distilled too (Sucholutsky & Schonlau 2019); the inner steps use
momentum, many steps, and one learned, bounded learning rate for each; Adam moves what is distilled; pixels pass the
bundle's rounding on their way into the network, and a little noise on the
weights keeps the learned dynamics from leaning on the last bits of one machine's arithmetic.

Where the training is longer than a ``window``, gradients flow through that many steps only, from a random place of it
(Feng, Vedantam & Kempe, "Embarrassingly Simple Dataset Distillation", ICLR 2024: random truncated backpropagation
through time, whose clipping by a moving average of the gradient's norm is used throughout).  Differs from it in that
the places come from a pool of trainings in progress, each of which goes on from where its last window ended, so that no
iteration pays for the steps before its window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from fieldkit.errors import UsageError
from fieldkit.hq.distil.descent import Training, descend
from fieldkit.hq.distil.images import centres, rounded
from fieldkit.hq.distil.pool import Pool
from fieldkit.hq.distil.problem import Problem, Snapshot, State, Weights, annealed

WHOLE_RATE = 0.025


@dataclass(frozen=True)
class Settings:
    """How to unroll.

    window: differentiable steps in an iteration; a training of no more steps is unrolled as a whole.
    pool: trainings kept in progress when the training is longer than a window.
    real: real images that score a network.  rate: Adam's step size for normalised pixels and label logits.
    learning_rate: where the learned learning rates start; lowest, highest: their bounds.
    sharpness: logit of an image's own class at the start.  contrast: standard deviation of the noise on first pixels.
    noise: standard deviation of the noise on the weights after each inner step, relative to each tensor's own.
    """

    window: int = 20
    pool: int = 8
    real: int = 256
    rate: float = 0.05
    schedule_rate: float | None = None
    lowest: float = 1e-4
    highest: float = 0.5
    sharpness: float = 4.0
    contrast: float = 0.3
    noise: float = 1e-3

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UsageError("too short", where="unrolled window", found=self.window, expected="at least 1 step")
        if not 0 < self.lowest <= self.highest:
            raise UsageError(
                "out of order", where="unrolled lowest and highest", found=f"{self.lowest} and {self.highest}"
            )


class Unrolled:
    """Images start as the classes' k-means centres with noise, so that no single real image is copied."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        self.norm = 0.0
        steps = problem.schedule.steps
        rng = problem.rng(0)
        self.pixels = centres(problem, settings.contrast, rng).requires_grad_(True)
        own = functional.one_hot(torch.from_numpy(problem.targets), problem.class_count).float()
        self.labels = (own * settings.sharpness).to(problem.device).requires_grad_(True)
        rates = torch.tensor([problem.schedule.learning_rate(step) for step in range(steps)], device=problem.device)
        self.rates = rates.clamp(settings.lowest, settings.highest).log().requires_grad_(True)
        self.whole = steps <= settings.window
        chosen = settings.schedule_rate
        self.schedule_rate = (WHOLE_RATE if self.whole else 0.0) if chosen is None else chosen
        groups = [
            {"params": [self.pixels], "lr": settings.rate},
            {"params": [self.labels], "lr": settings.rate},
            {"params": [self.rates], "lr": self.schedule_rate},
        ]
        self.optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.first_rates = [float(group["lr"]) for group in self.optimiser.param_groups]
        self.pool = Pool(problem, 1 if self.whole else settings.pool, rng)

    def step(self, done: float) -> float:
        """Unroll one window, score the network it ends with on real images, and move what is distilled."""
        self.iteration += 1
        rng = self.problem.rng(self.iteration)
        slot = self.iteration % len(self.pool)
        training = self.pool.trainings[slot]
        stop = min(training.step + self.settings.window, self.pool.ends[slot])
        reached = self._unroll(training, stop, rng)
        positions = rng.integers(len(self.problem.real), size=self.settings.real)
        targets = torch.from_numpy(self.problem.real.targets[positions]).to(self.problem.device)
        loss = functional.cross_entropy(self.problem.logits(reached.weights, self.problem.pixels(positions)), targets)
        value = float(loss.detach())
        self.pool.put(slot, reached, rng)
        if math.isfinite(value):
            self._move(loss, done)
        return value

    def snapshot(self) -> Snapshot:
        pixels = self.problem.normalise.restore(self.pixels.detach()).cpu().numpy().copy()
        labels = torch.softmax(self.labels.detach(), dim=1).cpu().numpy()
        if not self.schedule_rate:
            return Snapshot(pixels, labels)
        rates = tuple(float(f"{float(rate):.5g}") for rate in self._rates().detach())
        schedule = replace(self.problem.schedule, kind="listed", rate=0.0, warmup=0, rates=rates)
        return Snapshot(pixels, labels, schedule)

    def state(self) -> State:
        return {
            "iteration": self.iteration,
            "norm": self.norm,
            "distilled": [each.detach() for each in self._distilled()],
            "optimiser": self.optimiser.state_dict(),
            "pool": self.pool.state(),
        }

    def restore(self, state: State) -> None:
        self.iteration, self.norm = state["iteration"], state["norm"]
        with torch.no_grad():
            for mine, stored in zip(self._distilled(), state["distilled"], strict=True):
                mine.copy_(stored)
        self.optimiser.load_state_dict(state["optimiser"])
        self.pool.restore(state["pool"])

    def _distilled(self) -> list[torch.Tensor]:
        return [self.pixels, self.labels, self.rates]

    def _training_set(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels, soft labels and learning rates as a device will have them."""
        pixels = self.problem.enlarged(rounded(self.pixels, self.problem.levels))
        return pixels, torch.softmax(self.labels, dim=1), self._rates()

    def _rates(self) -> torch.Tensor:
        return self.rates.clamp(math.log(self.settings.lowest), math.log(self.settings.highest)).exp()

    def _unroll(self, training: Training, stop: int, rng: np.random.Generator) -> Training:
        """The training after step ``stop``, as a differentiable function of pixels, labels and learning rates."""
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        training = training.detached()
        pixels, labels, rates = self._training_set()
        for step in range(training.step, stop):
            training = descend(self.problem, training, pixels, labels, rates[step], differentiable=True)
            training = replace(training, weights=self._jittered(training.weights, noise))
        return training

    def _jittered(self, weights: Weights, noise: torch.Generator) -> Weights:
        """The weights with a little noise, in proportion to each tensor's root mean square."""
        if not self.settings.noise:
            return weights
        moved: Weights = {}
        for name, value in weights.items():
            spread = value.detach().square().mean().sqrt() * self.settings.noise
            moved[name] = value + torch.randn(value.shape, generator=noise).to(value.device) * spread
        return moved

    def _move(self, loss: torch.Tensor, done: float) -> None:
        """One step of Adam along the gradient, which is cut to twice its usual norm."""
        self.optimiser.zero_grad()
        torch.autograd.backward(loss, inputs=self._distilled())
        limit = 2.0 * self.norm if self.norm else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self._distilled(), limit))
        if not math.isfinite(norm):
            return
        kept = min(norm, limit)
        self.norm = 0.9 * self.norm + 0.1 * kept if self.norm else kept
        for group, rate in zip(self.optimiser.param_groups, self.first_rates, strict=True):
            group["lr"] = annealed(rate, done)
        self.optimiser.step()
