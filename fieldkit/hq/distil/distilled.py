"""The distilled set on its way: what a method moves, and how a device will see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from fieldkit.bundle.recipe import Schedule
from fieldkit.hq.distil.images import first_pixels, rounded
from fieldkit.hq.distil.movement import Movement
from fieldkit.hq.distil.problem import Problem, Snapshot, State

Decode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Moves:
    """How a distilled set begins, and how it moves.

    start: one of ``images.STARTS``, unless the problem names another.  contrast: of the noise on first pixels.
    rate: Adam's step size for normalised pixels or latents.  label_rate: for label logits, which begin with
    ``sharpness`` for an image's own class and 0 for the others; without sharpness, or where the problem wants them
    so, labels are hard.
    betas: Adam's.  clip: cut gradients that are longer than usual (``Movement``).
    """

    start: str = "real"
    contrast: float = 0.0
    rate: float = 0.02
    label_rate: float = 0.0
    sharpness: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    clip: bool = False


def matching(rate: float) -> Moves:
    """Of methods that match real images: starts are real samples, labels are hard."""
    return Moves(rate=rate, betas=(0.5, 0.99))


class DistilledSet:
    """Pixels, labels and whatever else a method learns, with the Adam that moves them.

    pixels: normalised float32 [per_class * k, c, h, w], class 0 first, as small as they are stored; or the latents
    float32 [per_class * k, ...] of which ``decode`` makes such pixels.
    logits: of the labels, float32 [per_class * k, k]; None where labels are hard.
    """

    def __init__(
        self,
        problem: Problem,
        rng: np.random.Generator,
        moves: Moves,
        *,
        latents: tuple[torch.Tensor, Decode] | None = None,
        more: Sequence[tuple[torch.Tensor, float]] = (),
    ) -> None:
        """latents: what moves in place of pixels, and what makes pixels of it, differentiably.

        more: other tensors that are learnt, each with its step size.  All step sizes fall along a half cosine over the
        budget.
        """
        self.problem = problem
        start = problem.start or moves.start
        first, self._decode = latents or (first_pixels(problem, start, moves.contrast, rng), _unchanged)
        self.pixels = first.requires_grad_(True)
        self._own = functional.one_hot(torch.from_numpy(problem.targets), problem.class_count).float()
        self._own = self._own.to(problem.device)
        sharpness = None if problem.labels == "hard" else moves.sharpness
        wanted = None if sharpness is None else self._own * sharpness
        self.logits = None if wanted is None else wanted.requires_grad_(True)
        labels = [] if self.logits is None else [(self.logits, moves.label_rate)]
        moved = [(self.pixels, moves.rate), *labels, *more]
        self._movement = Movement(problem.workers, moved, betas=moves.betas, clip=moves.clip)

    def seen(self) -> torch.Tensor:
        """Pixels as a device will have them, rounded and of the input's size; differentiable."""
        return self.problem.enlarged(rounded(self._decode(self.pixels), self.problem.levels))

    def labels(self) -> torch.Tensor:
        """Labels float32 [n, k], rows sum to 1; differentiable where they are learnt."""
        return self._own if self.logits is None else torch.softmax(self.logits, dim=1)

    def move(self, loss: torch.Tensor, done: float) -> None:
        """One step down the gradient of ``loss``, which is this worker's part of the whole; none if it is not finite.

        done: the share of the budget that is used up, 0-1.
        """
        self._movement.step(loss, done)

    def snapshot(self, schedule: Schedule | None = None) -> Snapshot:
        """The set as it stands, in native counts and before rounding."""
        with torch.no_grad():
            images = self.problem.normalise.restore(self._decode(self.pixels)).cpu().numpy().copy()
        return Snapshot(images, self.labels().detach().cpu().numpy().copy(), schedule)

    def state(self) -> State:
        return self._movement.state()

    def restore(self, state: State) -> None:
        self._movement.restore(state)


def _unchanged(pixels: torch.Tensor) -> torch.Tensor:
    return pixels
