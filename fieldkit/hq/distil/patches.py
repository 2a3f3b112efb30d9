"""Decoupled: crops of real images that a trained network is sure of, several in the place of one (RDED).

Sun, Shi, Yu & Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm",
CVPR 2024 (arXiv 2312.03526): of several random crops of each real image the one with the smallest loss under a trained
observer is kept (its "realism"), of each class the best of those; N x N of them are squeezed into the space of one
image, and labelled softly by the observer.  Nothing is optimised, so that large images and many classes cost no more
than a look at each candidate.

Differs in that a crop is scored as a device will see it, squeezed and enlarged again; that every iteration draws anew
and the driver keeps the set that teaches best on held-out images; and in the labels: the authors label every crop that
a training takes of the tiled image, where a bundle carries one label per stored image, in part (``own``) the image's
own class.  N x N crops are therefore best stored by the problem's ``formation``, which gives each crop its own label
and the device a whole enlarged crop; the authors' tiles in one image, with one label for the whole, are the setting
``tile``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from fieldkit.errors import UsageError
from fieldkit.hq.distil.experts import Lessons
from fieldkit.hq.distil.images import restored, rounded
from fieldkit.hq.distil.problem import Problem, Snapshot, State
from fieldkit.hq.distil.teachers import Teachers


@dataclass(frozen=True)
class Settings:
    """How to choose.

    tile: crops side by side in one stored image, along each axis.  candidates: real images of each class whose crops
    compete; a class that has fewer gives some twice.  crops: random crops of each, of which the best counts.
    smallest: least area of a crop, as a share of the image's.
    batch: images in one forward pass, which bounds the memory whatever the number of classes.
    teachers: trained networks that score and label.  epochs, learning_rate: of their training.
    views: augmented copies of an image over which the teachers' word is averaged.  own: share of an image's own class
    in its label; the rest is the teachers', who never saw squeezed crops and are less sure of them than they need be.
    """

    tile: int = 1
    candidates: int = 100
    crops: int = 5
    smallest: float = 0.25
    batch: int = 256
    teachers: int = 1
    epochs: int = 20
    learning_rate: float = 0.02
    views: int = 8
    own: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1:
            raise UsageError("out of range", where="patches smallest", found=self.smallest, expected="above 0, up to 1")
        if not 0 <= self.own <= 1:
            raise UsageError("out of range", where="patches own", found=self.own, expected="0 to 1")


@dataclass(frozen=True)
class Boxes:
    """Square parts of images, by shares of their sides: float64 [n] each, with top + side and left + side up to 1."""

    top: np.ndarray
    left: np.ndarray
    side: np.ndarray

    @classmethod
    def draw(cls, count: int, smallest: float, rng: np.random.Generator) -> Boxes:
        """Areas evenly between ``smallest`` and the whole, places evenly over what is left."""
        side = np.sqrt(rng.uniform(smallest, 1.0, count))
        return cls(rng.random(count) * (1.0 - side), rng.random(count) * (1.0 - side), side)

    def __getitem__(self, rows: np.ndarray | slice) -> Boxes:
        return Boxes(self.top[rows], self.left[rows], self.side[rows])


class Patches:
    """Before the first iteration the set is of whole real images, drawn at random."""

    def __init__(self, problem: Problem, settings: Settings = Settings()) -> None:
        _check_size(problem, settings.tile)
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        self._teachers: Teachers | None = None
        # Each cell of a tile is a distilled image of a problem that stores as many more of them, as much smaller.
        self.cells = replace(problem, formation=problem.formation * settings.tile)
        self._positions = self.cells.pick(self.cells.per_class, problem.rng(0))
        self._boxes = Boxes.draw(len(self._positions), 1.0, problem.rng(0))

    @property
    def teachers(self) -> Teachers:
        """Trained in the first iteration, so that their time is part of the budget."""
        if self._teachers is None:
            lessons = Lessons(epochs=self.settings.epochs, rate=self.settings.learning_rate)
            self._teachers = Teachers.trained(self.problem, self.settings.teachers, lessons)
        return self._teachers

    def step(self, done: float) -> float:
        """Draw candidates, score their crops and take the best; the mean loss of what is taken."""
        del done
        self.iteration += 1
        # By all workers alike, also by those that will find no batch to score.
        _ = self.teachers
        problem, settings, needed = self.problem, self.settings, self.cells.per_class
        rng = problem.rng(self.iteration)
        candidates = problem.pick(max(settings.candidates, needed), rng)
        positions = np.repeat(candidates, settings.crops)
        boxes = Boxes.draw(len(positions), settings.smallest, rng)
        losses = self._losses(positions, boxes)
        best = best_crops(losses.reshape(problem.class_count, -1, settings.crops), needed)
        self._positions, self._boxes = positions[best], boxes[best]
        return float(losses[best].mean())

    def snapshot(self) -> Snapshot:
        """The crops as they are stored; labels are the teachers' word and the images' own classes."""
        problem, settings = self.problem, self.settings
        parts = [self._part(first) for first in self._firsts(len(self._positions))]
        cells = torch.cat([self._cut(self._positions[part], self._boxes[part]).cpu() for part in parts])
        pixels = tiled(cells, settings.tile, problem.per_class)
        said = self.teachers.labels(rounded(pixels, problem.levels), settings.views, problem.rng(0)).cpu().numpy()
        labels = (1.0 - settings.own) * said + settings.own * np.eye(problem.class_count, dtype=np.float32)[
            problem.targets
        ]
        return Snapshot(restored(problem, pixels), labels)

    def state(self) -> State:
        boxes = {name: torch.from_numpy(each) for name, each in vars(self._boxes).items()}
        return {"iteration": self.iteration, "positions": torch.from_numpy(self._positions), "boxes": boxes}

    def restore(self, state: State) -> None:
        self.iteration = state["iteration"]
        self._positions = state["positions"].numpy()
        self._boxes = Boxes(**{name: each.numpy() for name, each in state["boxes"].items()})

    def _losses(self, positions: np.ndarray, boxes: Boxes) -> np.ndarray:
        """The teachers' loss float32 [n] on each crop as a device will see it; each worker scores some batches."""
        workers = self.problem.workers
        found = torch.zeros(len(positions), device=self.problem.device)
        for first in workers.mine(self._firsts(len(positions))):
            part = self._part(first)
            seen = self.cells.enlarged(self._cut(positions[part], boxes[part]))
            found[part] = self.teachers.losses(seen, self.problem.classes(positions[part]))
        workers.add_up([found])
        return found.cpu().numpy()

    def _cut(self, positions: np.ndarray, boxes: Boxes) -> torch.Tensor:
        return self.cells.reduced(crop(self.problem.pixels(positions), boxes))

    def _firsts(self, count: int) -> Sequence[int]:
        """Where each batch of ``count`` crops begins."""
        return range(0, count, self.settings.batch)

    def _part(self, first: int) -> slice:
        return slice(first, first + self.settings.batch)


def crop(pixels: torch.Tensor, boxes: Boxes) -> torch.Tensor:
    """The boxes of pixels float32 [n, c, h, w], one of each image, enlarged bilinearly to [n, c, h, w]."""
    scale = torch.from_numpy(boxes.side)
    warp = torch.zeros(len(pixels), 2, 3, dtype=torch.float64)
    warp[:, 0, 0] = warp[:, 1, 1] = scale
    # grid_sample counts from -1 to 1 between the outer edges of an image.
    warp[:, 0, 2] = torch.from_numpy(2.0 * boxes.left + boxes.side - 1.0)
    warp[:, 1, 2] = torch.from_numpy(2.0 * boxes.top + boxes.side - 1.0)
    grid = functional.affine_grid(warp.float().to(pixels.device), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def best_crops(losses: np.ndarray, needed: int) -> np.ndarray:
    """Places of each class's best crops in ``losses`` [k, images, crops] laid flat: int64 [k * needed].

    The best crop of each image competes with those of the class's other images; the best of all comes first.
    """
    classes, images, crops = losses.shape
    chosen = losses.argmin(axis=2)
    order = np.argsort(losses.min(axis=2), axis=1, kind="stable")[:, :needed]
    rows = np.arange(classes)[:, None] * images + order
    places: np.ndarray = rows * crops + np.take_along_axis(chosen, order, axis=1)
    return places.reshape(-1)


def tiled(cells: torch.Tensor, tile: int, per_class: int) -> torch.Tensor:
    """Images float32 [k * per_class, c, tile * h, tile * w], each of tile**2 of the cells float32 [n, c, h, w].

    Cells come class by class, best first; the best of a class are spread over its images.
    """
    channels, height, width = cells.shape[1:]
    grouped = cells.reshape(-1, tile, tile, per_class, channels, height, width)
    return grouped.permute(0, 3, 4, 1, 5, 2, 6).reshape(-1, channels, tile * height, tile * width)


def _check_size(problem: Problem, tile: int) -> None:
    """Refuse images whose stored sides the tiles do not divide."""
    sides = [side // problem.formation for side in problem.real.images.shape[2:]]
    if any(side % tile for side in sides):
        found = f"{tile} for stored images of {sides[0]} x {sides[1]} pixels"
        raise UsageError("tiles do not fit", where="patches tile", found=found, expected="a divisor of both sides")
