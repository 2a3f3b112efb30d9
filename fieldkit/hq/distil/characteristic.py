"""Distribution matching by characteristic functions (NCFM).

Wang, Yang, Hu, Chen, Zhang, Ma & Xu, "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective",
CVPR 2025 (arXiv 2502.20653): a distribution is known by its characteristic function, the mean of exp(i t.x) at every
frequency t.  Distilled images of a class are moved until theirs agrees with that of real images, in amplitude and in
phase, at frequencies drawn by a small network that is trained at the same time to make them disagree.  As in the
authors' code features have unit length, the networks that make them lie between an untrained and a trained one, and a
trained network's cross-entropy keeps the images in their classes (its "calibration").

Differs in that all classes go through the network in one batch and share frequencies; that discrepancy and calibration
make one step of Adam; and in a smaller sampling network, which sees features only, so that its step costs no pass
through the large one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fieldkit.bundle.recipe import Augmentation
from fieldkit.errors import UsageError
from fieldkit.hq.distil.archive import Archive
from fieldkit.hq.distil.distilled import DistilledSet, matching
from fieldkit.hq.distil.experts import Lessons
from fieldkit.hq.distil.movement import Movement
from fieldkit.hq.distil.problem import Problem, Snapshot, State, Weights
from fieldkit.hq.distil.siamese import SIAMESE, augmented, features, nothing, own_share, real_features
from fieldkit.hq.seeding import seeded

WIDTH = 256
SLOPE = 0.2
LEAST = 1e-12


@dataclass(frozen=True)
class Settings:
    """per_class: real images of each class in an iteration.  frequencies: at how many the functions are compared.

    amplitude: weight of the difference in amplitude, 0-1; the rest is that of phase, which carries the centre of a
    class where amplitude carries its spread.
    sampling_rate: Adam's step size for the sampling network; 0 draws frequencies from a normal distribution instead.
    experts: networks trained on ``lesson`` real images an epoch, for ``epochs``.  calibration: weight of cross-entropy.
    rate: Adam's step size, in normalised pixels.  augmentation: the siamese augmentation's strengths.
    """

    per_class: int = 128
    frequencies: int = 1024
    amplitude: float = 0.5
    sampling_rate: float = 1e-3
    experts: int = 4
    epochs: int = 4
    lesson: int = 5000
    calibration: float = 0.01
    rate: float = 0.02
    augmentation: Augmentation = SIAMESE

    def __post_init__(self) -> None:
        if self.frequencies < 2:
            raise UsageError(
                "too few", where="characteristic frequencies", found=self.frequencies, expected="2 or more"
            )
        if not 0 <= self.amplitude <= 1:
            raise UsageError("out of range", where="characteristic amplitude", found=self.amplitude, expected="0-1")


class CharacteristicMatching:
    """Distilled images start as real samples; their labels are hard."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        rng = problem.rng(0)
        self.distilled = DistilledSet(problem, rng, matching(settings.rate))
        lessons = Lessons(epochs=settings.epochs, most=settings.lesson)
        self.archive = Archive(problem, lessons, settings.experts, trajectories=True)
        outputs = _feature_count(problem)
        self.inputs = min(outputs, WIDTH) if settings.sampling_rate else outputs
        self.sampler = sampling_network(self.inputs, outputs, int(rng.integers(1 << 62))).to(problem.device)
        moved = [(each, settings.sampling_rate) for each in self.sampler.parameters()]
        self.ascent = Movement(problem.workers, moved)

    def step(self, done: float) -> float:
        """Move the images towards, and the frequencies away from, agreement under one network."""
        problem, settings = self.problem, self.settings
        self.archive.provide(settings.experts, lambda ready, all_: problem.note(f"{ready} of {all_} experts trained"))
        self.iteration += 1
        rng = problem.rng(self.iteration)
        between, trained = self._networks(rng)
        share = own_share(problem, self.distilled, settings.per_class, settings.augmentation, rng)
        noise = torch.from_numpy(rng.standard_normal((settings.frequencies, self.inputs), dtype=np.float32))
        found: list[torch.Tensor] = []
        if share is not None:
            seen = augmented(share.pixels, share.uniforms, settings.augmentation)
            real = real_features(problem, between, share.positions, share.uniforms, settings.augmentation)
            found = [real, features(problem, between, seen, len(share.classes))]
        frequencies = self._sharpened(found, noise.to(problem.device), done)
        loss = nothing(self.distilled.pixels)
        if share is not None:
            loss = discrepancy(found[0], found[1], frequencies, settings.amplitude).sum()
            loss = loss + settings.calibration * self._calibration(trained, seen, share.classes)
        self.distilled.move(loss, done)
        return problem.workers.total(loss)

    def snapshot(self) -> Snapshot:
        return self.distilled.snapshot()

    def state(self) -> State:
        return {"iteration": self.iteration, "distilled": self.distilled.state(), "ascent": self.ascent.state()}

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.distilled.restore(state["distilled"])
        self.ascent.restore(state["ascent"])

    def _networks(self, rng: np.random.Generator) -> tuple[Weights, Weights]:
        """A network somewhere between its first and its trained weights, and the trained one."""
        expert, share = int(rng.integers(self.settings.experts)), float(rng.random())
        first, trained = self.archive.snapshot(expert, 0), self.archive.weights(expert)
        return {name: torch.lerp(value, trained[name], share) for name, value in first.items()}, trained

    def _sharpened(self, sides: list[torch.Tensor], noise: torch.Tensor, done: float) -> torch.Tensor:
        """Frequencies float32 [q, f] of the sampling network after a step towards more disagreement."""
        if not self.settings.sampling_rate:
            return noise
        loss = nothing(next(self.sampler.parameters()))
        if sides:
            loss = -discrepancy(sides[0], sides[1].detach(), self.sampler(noise), self.settings.amplitude).sum()
        self.ascent.step(loss, done)
        with torch.no_grad():
            return cast(torch.Tensor, self.sampler(noise))

    def _calibration(self, trained: Weights, seen: torch.Tensor, classes: list[int]) -> torch.Tensor:
        """A trained network's cross-entropy on the distilled images, mean of each class and summed over classes."""
        targets = torch.tensor(classes, device=seen.device).repeat_interleave(self.problem.per_class)
        with self.problem.in_use():
            logits = self.problem.logits(trained, seen)
        return functional.cross_entropy(logits, targets) * len(classes)


def discrepancy(
    real: torch.Tensor, distilled: torch.Tensor, frequencies: torch.Tensor, amplitude: float
) -> torch.Tensor:
    """How far the characteristic functions of two sets of features are from each other: float32 [k], by class.

    At each frequency the root of ``amplitude`` times the squared difference of amplitudes and ``1 - amplitude`` times
    what the difference in phase adds to the distance in the complex plane; then the mean over frequencies.

    real: float32 [k, n, f].  distilled: float32 [k, m, f].  frequencies: float32 [q, f].
    """
    sides = (functional.normalize(each, dim=2) @ frequencies.T for each in (real, distilled))
    (real_re, real_im), (own_re, own_im) = ((each.cos().mean(dim=1), each.sin().mean(dim=1)) for each in sides)
    real_size, own_size = ((re**2 + im**2 + LEAST).sqrt() for re, im in ((real_re, real_im), (own_re, own_im)))
    sizes = (real_size - own_size) ** 2
    phases = 2.0 * (real_size * own_size - real_re * own_re - real_im * own_im)
    return (amplitude * sizes + (1.0 - amplitude) * phases.clamp_min(0.0) + LEAST).sqrt().mean(dim=1)


def sampling_network(inputs: int, outputs: int, seed: int) -> nn.Module:
    """Normal noise float32 [q, inputs] to frequencies float32 [q, outputs] between -1 and 1."""
    widths = (inputs, inputs, outputs)

    def layers() -> Iterator[nn.Module]:
        for index, width in enumerate(widths):
            yield nn.Linear(inputs, width)
            yield nn.BatchNorm1d(width, track_running_stats=False)
            yield nn.LeakyReLU(SLOPE) if index + 1 < len(widths) else nn.Tanh()

    return seeded(lambda: nn.Sequential(*layers()), seed)


def _feature_count(problem: Problem) -> int:
    with torch.no_grad():
        return problem.features(problem.fresh_model(0), problem.pixels(np.arange(2))).shape[1]
