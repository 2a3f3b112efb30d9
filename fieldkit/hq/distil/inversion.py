"""Decoupled: images that a trained network takes for their class, and that look to its layers like real data (SRe2L).

Yin, Xing & Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New Perspective",
NeurIPS 2023 (arXiv 2306.13092). Squeeze: train a network on the real images. Recover: move each image by the network's
cross-entropy on the image's class, by how far the means and variances that enter its batch normalisations are from
their running statistics, and by image priors (total variation and squared size), under random crops. Relabel: the
network's soft labels. Images are recovered in batches, one after the other, each with its own share of the budget: what
is at work at any time does not grow with the number of classes.

Differs in that the statistics are those of any normalisation layer's inputs, of channels over images and pixels: a
batch normalisation's running ones, and for group, instance and layer normalisation, which keep none, those measured on
real images once the network is trained; where a network normalises nothing, the inputs of its convolutions and linear
layers behind the first take their place. Means are compared in units of the real deviations and variances in units of
the real variances, and both averaged over layers, so that one weight fits every network. The crops are the device's own
augmentation; labels are averages over such crops, since a bundle carries one per image; several teachers take turns, as
in Shao et al., "Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching", CVPR 2024.
Pixels pass the bundle's rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.experts import Lessons
from fieldkit.hq.distil.images import first_pixels, restored, rounded
from fieldkit.hq.distil.moments import Moments, distance, running, watching
from fieldkit.hq.distil.movement import Movement
from fieldkit.hq.distil.problem import Problem, Snapshot, State, Weights
from fieldkit.hq.distil.teachers import Teachers


@dataclass(frozen=True)
class Settings:
    """How to invert.

    batch: images that are moved together, of all classes alike; it bounds the memory whatever their number.
    rate: Adam's step size for normalised pixels, which falls to almost nothing for each batch.
    statistics: weight of the distance of the layers' statistics, beside the cross-entropy's 1.  variation, size: of
    the images' total variation and mean square.
    real: real images on which statistics are measured that a network does not keep.
    teachers: trained networks, which take turns.  epochs, learning_rate: of their training.
    views: augmented copies of an image over which its label is averaged.
    """

    batch: int = 100
    rate: float = 0.05
    statistics: float = 1.0
    variation: float = 0.01
    size: float = 0.001
    real: int = 1000
    teachers: int = 1
    epochs: int = 20
    learning_rate: float = 0.02
    views: int = 8


class Inversion:
    """Images start as real samples, drawn at random, unless the problem names another start ("noise": the authors')."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        self._began = 0.0
        self._teachers: Teachers | None = None
        # What each teacher's layers should see.
        self._wanted: list[Moments] = []
        # The whole set waits in main memory; one batch of it is at work.
        self._pixels = first_pixels(problem, problem.start or "real", 0.1, problem.rng(0)).cpu()
        self.batches = mixed_batches(problem, settings.batch)
        self._begin(0)

    @property
    def teachers(self) -> Teachers:
        """Trained in the first iteration, so that their time is part of the budget."""
        if self._teachers is None:
            lessons = Lessons(epochs=self.settings.epochs, rate=self.settings.learning_rate)
            self._teachers = Teachers.trained(self.problem, self.settings.teachers, lessons)
            members = self._teachers.members
            self._wanted = [wanted_moments(self.problem, self.settings, each) for each in members]
        return self._teachers

    def step(self, done: float) -> float:
        """Move the batch whose turn it is, each having the same share of the budget; the loss of that batch."""
        self.iteration += 1
        problem, settings = self.problem, self.settings
        place = self._place(done)
        turn = min(int(place), len(self.batches) - 1)
        if turn != self._turn:
            self._put_back()
            self._begin(turn)
        members = self.teachers.members
        member = self.iteration % len(members)
        parts, found = self._look(members[member], problem.rng(self.iteration))
        far, part = apportioned(found, self._wanted[member], problem)
        self._movement.step(parts + settings.statistics * part, place - turn)
        return problem.workers.total(parts) + settings.statistics * far

    def snapshot(self) -> Snapshot:
        """The set as it stands; labels are the teachers'."""
        self._put_back()
        seen = rounded(self._pixels, self.problem.levels)
        labels = self.teachers.labels(seen, self.settings.views, self.problem.rng(0))
        return Snapshot(restored(self.problem, self._pixels), labels.cpu().numpy())

    def state(self) -> State:
        self._put_back()
        return {
            "iteration": self.iteration,
            "began": self._began,
            "pixels": self._pixels,
            "turn": self._turn,
            "movement": self._movement.state(),
        }

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self._began = state["began"]
        self._pixels = state["pixels"].clone()
        self._begin(state["turn"])
        self._movement.restore(state["movement"])

    def _place(self, done: float) -> float:
        """Which batch's turn it is, and how much of its share is used up, as one number."""
        if self.iteration <= 2:
            # The teachers' training, in the first iteration, is nobody's share.
            self._began = done
        return (done - self._began) / (1.0 - self._began) * len(self.batches)

    def _begin(self, turn: int) -> None:
        self._turn = turn
        pixels = self._pixels[torch.from_numpy(self.batches[turn])].to(self.problem.device)
        moved = [(pixels.requires_grad_(True), self.settings.rate)]
        self._movement = Movement(self.problem.workers, moved, betas=(0.5, 0.9))

    def _put_back(self) -> None:
        self._pixels[torch.from_numpy(self.batches[self._turn])] = self._movement.tensors[0].detach().cpu()

    def _look(self, weights: Weights, rng: np.random.Generator) -> tuple[torch.Tensor, Moments]:
        """This worker's part of the cross-entropy and the priors, and of the moments, under one teacher."""
        problem, settings = self.problem, self.settings
        rows = self.batches[self._turn]
        uniforms = rng.random((len(rows), problem.augmentation.width), dtype=np.float32)
        mine = problem.workers.mine(np.arange(len(rows)))
        pixels = rounded(self._movement.tensors[0], problem.levels)[torch.from_numpy(mine)]
        if not len(mine):
            return pixels.sum(), {}
        share = len(mine) / len(rows)
        crops = torch.from_numpy(uniforms[mine]).to(pixels.device)
        with problem.in_use(), watching(problem.module) as found:
            logits = problem.logits(weights, augment(problem.enlarged(pixels), crops, problem.augmentation))
        classes = torch.from_numpy(problem.targets[rows[mine]]).to(pixels.device)
        own = functional.cross_entropy(logits, classes)
        priors = settings.variation * total_variation(pixels) + settings.size * (pixels**2).mean()
        return share * (own + priors), {name: share * each for name, each in found.items()}


def mixed_batches(problem: Problem, batch: int) -> list[np.ndarray]:
    """Rows of the distilled set, int64, in batches of about one size with as many images of each class as can be."""
    rows = np.arange(len(problem.targets)).reshape(problem.class_count, -1).T.reshape(-1)
    return np.array_split(rows, -(-len(rows) // batch))


def wanted_moments(problem: Problem, settings: Settings, weights: Weights) -> Moments:
    """Of a teacher's layers on real data: its running statistics, and for layers without them, measured ones.

    Measured as the teacher was trained, under the recipe's augmentation, on some of the real images.
    """
    rng = problem.rng(0)
    positions = rng.permutation(len(problem.real))[: settings.real]
    total: Moments = {}
    for part in np.array_split(positions, -(-len(positions) // settings.batch)):
        uniforms = torch.from_numpy(rng.random((len(part), problem.augmentation.width), dtype=np.float32))
        pixels = augment(problem.pixels(part), uniforms.to(problem.device), problem.augmentation)
        with watching(problem.module) as found:
            problem.answers(weights, pixels)
        share = len(part) / len(positions)
        total = {name: total.get(name, 0.0) + share * each for name, each in found.items()}
    # A layer that never runs has none.
    return total | {name: each for name, each in running(problem.module, weights).items() if name in total}


def apportioned(parts: Moments, wanted: Moments, problem: Problem) -> tuple[float, torch.Tensor]:
    """The distance of all workers' moments from the wanted ones, and a tensor with this worker's part of its gradient.

    The distance is no sum over images, so workers cannot each compute a part of it: they add up the moments, and each
    hands the distance's gradient on to its own images.
    """
    totals = {name: parts[name].detach().clone() if parts else torch.zeros_like(each) for name, each in wanted.items()}
    problem.workers.add_up(list(totals.values()))
    for each in totals.values():
        each.requires_grad_(True)
    far = distance(totals, wanted)
    if not (parts and totals):
        return float(far.detach()), torch.zeros((), device=problem.device)
    gradients = torch.autograd.grad(far, list(totals.values()))
    pairs = zip(gradients, (parts[name] for name in totals), strict=True)
    return float(far.detach()), torch.stack([(gradient * part).sum() for gradient, part in pairs]).sum()


def total_variation(pixels: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of neighbouring pixels of float32 [n, c, h, w], down and across."""
    count = pixels.numel()
    return (pixels.diff(dim=2).square().sum() + pixels.diff(dim=3).square().sum()) / count
