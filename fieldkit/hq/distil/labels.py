"""Labels of a distilled set that the user chooses: hard, learned, or soft from teachers, whatever the method.

Soft labels from networks trained on real data say how the classes resemble each other (Hinton, Vinyals & Dean,
"Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531); what they are worth in distillation: Qin, Deng
& Alvarez-Melis, "A Label is Worth a Thousand Images in Dataset Distillation", NeurIPS 2024 (arXiv 2406.10485).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from fieldkit.bundle.pixels import Pixels
from fieldkit.errors import UsageError
from fieldkit.hq.distil.experts import Lessons
from fieldkit.hq.distil.problem import Distillation, Problem, Snapshot, State
from fieldkit.hq.distil.teachers import Teachers

KINDS = ("hard", "teacher", "learned")
# Which of an iteration's randoms are the labels'.
PART = 5


@dataclass(frozen=True)
class Teaching:
    """teachers: how many.  epochs: of their training; rate: its highest learning rate.

    temperature: divides their logits, so that more of it makes softer labels.  views: augmented copies of an image over
    which its label is averaged, since a device sees it augmented.
    """

    teachers: int = 3
    epochs: int = 10
    rate: float = 0.02
    temperature: float = 1.0
    views: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            whole = name in ("teachers", "epochs", "views")
            if not (isinstance(value, int if whole else int | float) and 0 < value < math.inf):
                expected = f"a {'whole ' if whole else ''}number above 0"
                raise UsageError("out of range", where=f"labels {name}", found=value, expected=expected)


@dataclass(frozen=True)
class Labels:
    """What labels a distilled set gets.

    kind: "hard", one class each; "teacher", what networks trained on the real data say; or "learned", by a method that
    can.
    teaching: how teachers are trained and asked.
    """

    kind: str
    teaching: Teaching = Teaching()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError("unknown kind of labels", where="labels", found=self.kind, expected=", ".join(KINDS))
        if self.kind != "teacher" and self.teaching != Teaching():
            raise UsageError("only teachers have settings", where=f"labels {self.kind}", found=self.teaching)

    @property
    def meanwhile(self) -> str:
        """What the method works with: hard labels, where teachers give theirs afterwards."""
        return "hard" if self.kind == "teacher" else self.kind

    def to_json(self) -> dict[str, object]:
        """What a manifest says of them."""
        return {"kind": self.kind} | (vars(self.teaching) if self.kind == "teacher" else {})


def labelled(made: Distillation, problem: Problem, labels: Labels | None) -> Distillation:
    """The distillation with the labels that the user wants; None leaves them to the method."""
    if labels is None or labels.kind == "learned":
        return made
    return Taught(made, problem, labels) if labels.kind == "teacher" else Hard(made, problem)


class Hard:
    """A distillation whose images have one class each."""

    def __init__(self, made: Distillation, problem: Problem) -> None:
        self.made = made
        self.problem = problem

    def step(self, done: float) -> float:
        return self.made.step(done)

    def snapshot(self) -> Snapshot:
        own = np.eye(self.problem.class_count, dtype=np.float32)[self.problem.targets]
        return replace(self.made.snapshot(), labels=own)

    def state(self) -> State:
        return self.made.state()

    def restore(self, state: State) -> None:
        self.made.restore(state)


class Taught(Hard):
    """A distillation whose images are labelled by teachers, as the bundle will store them."""

    def __init__(self, made: Distillation, problem: Problem, labels: Labels) -> None:
        super().__init__(made, problem)
        self.teaching = labels.teaching

    def step(self, done: float) -> float:
        """The teachers train in the first iteration, so that their time is the method's own and no judge's."""
        _ = self.teachers
        return self.made.step(done)

    def snapshot(self) -> Snapshot:
        taken, problem = self.made.snapshot(), self.problem
        if not np.isfinite(taken.images).all():
            return taken
        stored = Pixels.encode(taken.images, problem.real.images.dtype.name, problem.levels).decode()
        pixels = problem.normalise(torch.from_numpy(stored).to(problem.device))
        said = self.teachers.labels(pixels, self.teaching.views, np.random.default_rng([problem.seed, PART]))
        return replace(taken, labels=said.cpu().numpy())

    @cached_property
    def teachers(self) -> Teachers:
        lessons = Lessons(epochs=self.teaching.epochs, rate=self.teaching.rate)
        made = Teachers.trained(self.problem, self.teaching.teachers, lessons)
        return replace(made, temperature=self.teaching.temperature)
