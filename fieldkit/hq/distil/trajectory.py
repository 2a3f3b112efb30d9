"""Parameter matching over trajectories of training (MTT, with TESLA's memory and DATM's difficulty).

Cazenavette, Wang, Torralba, Efros & Zhu, "Dataset Distillation by Matching Training Trajectories", CVPR 2022 (arXiv
2203.11932), equation 2: a student starts from weights that an expert had on real data, trains on the distilled images
for a few steps at a learned rate, and should arrive where the expert arrived some epochs later:

    loss = |student - target|^2 / |start - target|^2

Cui, Wang, Si & Hsieh, "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory" (TESLA), ICML 2023 (arXiv
2211.10586), section 3.2: the student's steps are plain SGD, so that the loss's gradient is a sum over steps, and the
graph of one step at a time is enough.  Guo, Wang, Cazenavette, Li, Zhang & You, "Towards Lossless Dataset Distillation
via Difficulty-Aligned Trajectory Matching" (DATM), ICLR 2024 (arXiv 2310.05773), section 3: few images learn from early
epochs, many from late ones too, later ones as the distillation goes on; soft labels are learned, and begin as an
expert's.

Differs in that TESLA's sum is made exact: beside the images, the student's own later weights depend on each step, and
that dependence is carried back from step to step (``exact``; without it the sum is TESLA's).  Experts train as a device
does, with its augmentation; an epoch of theirs is ``lesson`` images; they are made one by one in the first iterations,
for no more than half of the budget.  Adam moves images, labels and the logarithm of the learned rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from fieldkit.errors import UsageError
from fieldkit.hq.compiler.optimisers import Sgd
from fieldkit.hq.distil.archive import Archive
from fieldkit.hq.distil.distilled import DistilledSet, Moves
from fieldkit.hq.distil.experts import Lessons
from fieldkit.hq.distil.problem import Problem, Snapshot, State
from fieldkit.hq.distil.student import Slope, Student, lessons, slope

# DATM's last epoch to start from, at the beginning and at the end, by images per class.
DIFFICULTY = ((1, 4, 4), (10, 10, 20), (50, 20, 40))
# The share of the budget after which no more experts are made.
TEACHING = 0.5


@dataclass(frozen=True)
class Settings:
    """What is matched, and how.

    experts: trajectories to learn from.  lesson: real images between two of their snapshots, called an epoch.
    expert_rate: their learning rate, constant.
    steps: of the student.  batch: distilled images in each.  span: epochs from the student's start to its target.
    first: earliest epoch to start from.  early, late: the latest one, at the beginning and at the end of the budget;
    None takes what suits the images per class.
    matches: students in an iteration, shared among workers.
    exact: carry gradients through the student's weights; without, an iteration takes less time and memory.
    rate: Adam's step size for normalised pixels.  label_rate: for label logits; sharpness: of an image's own class at
    the start, where no expert knows better.
    student_rate: where the student's learned rate starts; rate_rate: Adam's step size for its logarithm.
    """

    experts: int = 8
    lesson: int = 5000
    expert_rate: float = 0.02
    steps: int = 20
    batch: int = 100
    span: int = 2
    first: int = 0
    early: int | None = None
    late: int | None = None
    matches: int = 1
    exact: bool = True
    rate: float = 0.1
    label_rate: float = 0.02
    sharpness: float = 4.0
    student_rate: float = 0.1
    rate_rate: float = 0.02

    def __post_init__(self) -> None:
        if not self.student_rate:
            raise UsageError("must be above 0", where="trajectory student_rate", found=self.student_rate)
        latest = [each for each in (self.early, self.late) if each is not None]
        if any(self.first > each for each in latest) or latest != sorted(latest):
            found = f"{self.first}, {self.early} and {self.late}"
            raise UsageError("out of order", where="trajectory first, early and late", found=found)

    def difficulty(self, ipc: int) -> tuple[int, int]:
        """The latest epochs to start from, at the beginning and at the end."""
        _, early, late = min(DIFFICULTY, key=lambda row: abs(math.log(row[0] / ipc)))
        early = max(early, self.first) if self.early is None else self.early
        late = max(late, early) if self.late is None else self.late
        return min(early, late), late


@dataclass(frozen=True)
class Stretch:
    """A piece of an expert's trajectory, and the seed of the student's batches and augmentation."""

    expert: int
    epoch: int
    seed: int


class TrajectoryMatching:
    """Images start as real samples; labels are learned unless they are to be hard."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        self.ready = 0
        self.early, self.late = settings.difficulty(problem.per_class)
        epochs = self.late + settings.span
        taught = Lessons(epochs=epochs, rate=settings.expert_rate, falling=False, most=settings.lesson)
        self.archive = Archive(problem, taught, settings.experts, trajectories=True)
        self.log_rate = torch.tensor(math.log(settings.student_rate), device=problem.device, requires_grad=True)
        self.distilled = DistilledSet(
            problem,
            problem.rng(0),
            Moves(rate=settings.rate, label_rate=settings.label_rate, sharpness=settings.sharpness, clip=True),
            more=[(self.log_rate, settings.rate_rate)],
        )

    def step(self, done: float) -> float:
        """Let students train, and move what is distilled so that they would have come closer to the experts."""
        self.iteration += 1
        self._provide(done)
        rng = self.problem.rng(self.iteration)
        stretches = [self._drawn(done, rng) for _ in range(self.settings.matches)]
        seen, labels, rate = self.distilled.seen(), self.distilled.labels(), self.log_rate.exp()
        moved = torch.zeros((), device=self.problem.device)
        losses = torch.zeros((), device=self.problem.device)
        for index in self.problem.workers.mine(range(len(stretches))):
            slope = self._slope(stretches[index], seen, labels, rate)
            # What has the slope's gradients; its own value means nothing.
            moved = moved + (slope.pixels * seen).sum() + (slope.labels * labels).sum() + slope.rate * rate
            losses = losses + slope.loss / len(stretches)
        if not moved.requires_grad:
            moved = 0.0 * rate
        self.distilled.move(moved / len(stretches), done)
        return self.problem.workers.total(losses)

    def snapshot(self) -> Snapshot:
        """The set; its schedule has the student's learned rate as its highest, if a device trains by SGD as well."""
        if not isinstance(self.problem.optimiser, Sgd):
            return self.distilled.snapshot()
        rate = float(f"{float(self.log_rate.detach().exp()):.4g}")
        return self.distilled.snapshot(replace(self.problem.schedule, rate=rate))

    def state(self) -> State:
        return {"iteration": self.iteration, "ready": self.ready, "distilled": self.distilled.state()}

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self.ready = state["ready"]
        self.distilled.restore(state["distilled"])

    def _provide(self, done: float) -> None:
        """One expert more in each of the first iterations, while there is time."""
        if self.ready == 0 or (self.ready < self.settings.experts and done < TEACHING):
            self.ready += 1
        self.archive.provide(
            self.ready, lambda ready, count: self.problem.note(f"{ready} of {count} experts trained on real images")
        )
        if self.iteration == 1:
            self._begin_labels()

    def _begin_labels(self) -> None:
        """Labels begin as what the first expert says, of the images that it knows."""
        logits = self.distilled.logits
        if logits is None:
            return
        with torch.no_grad():
            said = self.problem.answers(self.archive.weights(0), self.distilled.seen())
            known = said.argmax(dim=1) == logits.argmax(dim=1)
            logits[known] = said[known]

    def _drawn(self, done: float, rng: np.random.Generator) -> Stretch:
        latest = self.early + round((self.late - self.early) * min(done, 1.0))
        expert, epoch = rng.integers(self.ready), rng.integers(self.settings.first, latest + 1)
        return Stretch(int(expert), int(epoch), int(rng.integers(1 << 62)))

    def _slope(self, stretch: Stretch, seen: torch.Tensor, labels: torch.Tensor, rate: torch.Tensor) -> Slope:
        start = self.archive.snapshot(stretch.expert, stretch.epoch)
        target = self.archive.snapshot(stretch.expert, stretch.epoch + self.settings.span)
        settings = self.settings
        order = lessons(self.problem, len(seen), settings.steps, settings.batch, stretch.seed)
        student = Student(self.problem, seen.detach(), labels.detach(), rate.detach(), tuple(order))
        return slope(student, start, target, exact=self.settings.exact)
