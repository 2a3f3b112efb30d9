"""Performance matching by unrolled training.

Wang, Zhu, Torralba & Efros, "Dataset Distillation", 2018 (arXiv 1811.10959), algorithm 1: train a network on the
distilled images for a few steps of gradient descent, measure its loss on real images, and move images and learning
rate down the gradient of that loss through all of the steps.

Differs in what has been learnt since: soft labels are distilled too (Sucholutsky & Schonlau 2019); the inner steps are
the device's own, SGD with momentum or AdamW as the recipe has it, many of them, with one learned, bounded learning rate
for each; Adam moves what is distilled; pixels pass the bundle's rounding on their way into the network, and a little
noise on the weights keeps the learned dynamics from leaning on the last bits of one machine's arithmetic.

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

from fieldkit.errors import UsageError
from fieldkit.hq.distil.descent import Training, descend, real_loss
from fieldkit.hq.distil.distilled import DistilledSet, Moves
from fieldkit.hq.distil.pool import Pool, Pooled
from fieldkit.hq.distil.problem import Problem, Snapshot, Weights

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


class Unrolled(Pooled):
    """Images start as the classes' k-means centres with noise, so that no single real image is copied."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.settings = settings
        steps = problem.schedule.steps
        rng = problem.rng(0)
        rates = torch.tensor([problem.schedule.learning_rate(step) for step in range(steps)], device=problem.device)
        self._bounds = math.log(settings.lowest), math.log(settings.highest)
        self.rates = rates.log().clamp(*self._bounds).requires_grad_(True)
        self.whole = steps <= settings.window
        chosen = settings.schedule_rate
        self.schedule_rate = (WHOLE_RATE if self.whole else 0.0) if chosen is None else chosen
        moves = Moves(
            start="centres",
            contrast=settings.contrast,
            rate=settings.rate,
            label_rate=settings.rate,
            sharpness=settings.sharpness,
            clip=True,
        )
        distilled = DistilledSet(problem, rng, moves, more=[(self.rates, self.schedule_rate)])
        super().__init__(problem, distilled, Pool(problem, 1 if self.whole else settings.pool, rng))

    def step(self, done: float) -> float:
        """Unroll one window, score the network it ends with on real images, and move what is distilled."""
        rng, slot, training = self.turn()
        stop = min(training.step + self.settings.window, self.pool.ends[slot])
        reached = self._unroll(training, stop, rng)
        positions = self.problem.workers.mine(rng.integers(len(self.problem.real), size=self.settings.real))
        loss = real_loss(self.problem, reached.weights, positions, self.settings.real)
        self.pool.put(slot, reached, rng)
        self.distilled.move(loss, done)
        # Beyond a bound a rate would have no slope to come back by.
        with torch.no_grad():
            self.rates.clamp_(*self._bounds)
        return self.problem.workers.total(loss)

    def snapshot(self) -> Snapshot:
        if not self.schedule_rate:
            return self.distilled.snapshot()
        rates = tuple(float(f"{float(rate):.5g}") for rate in self.rates.detach().exp())
        schedule = replace(self.problem.schedule, kind="listed", rate=0.0, warmup=0, rates=rates)
        return self.distilled.snapshot(schedule)

    def _unroll(self, training: Training, stop: int, rng: np.random.Generator) -> Training:
        """The training after step ``stop``, as a differentiable function of pixels, labels and learning rates."""
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        training = training.detached()
        pixels, labels, rates = self.distilled.seen(), self.distilled.labels(), self.rates.exp()
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
