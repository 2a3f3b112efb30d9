"""The distilled set on its way: what a method moves, and how a device will see it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from fieldkit.bundle.recipe import Schedule
from fieldkit.hq.distil.images import first_pixels, rounded
from fieldkit.hq.distil.problem import Problem, Snapshot, State, annealed

# How much longer than usual a gradient may be before it is cut.
LONGEST = 2.0


class DistilledSet:
    """Pixels, labels and whatever else a method learns, with the Adam that moves them.

    pixels: normalised float32 [per_class * k, c, h, w], class 0 first, as small as they are stored.
    logits: of the labels, float32 [per_class * k, k]; None where labels are hard.
    """

    def __init__(
        self,
        problem: Problem,
        rng: np.random.Generator,
        *,
        start: str = "real",
        contrast: float = 0.0,
        rate: float = 0.02,
        label_rate: float = 0.0,
        sharpness: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        more: Sequence[tuple[torch.Tensor, float]] = (),
        clip: bool = False,
    ) -> None:
        """start: one of ``images.STARTS``, unless the problem names another.  contrast: of the noise on first pixels.

        rate: Adam's step size for normalised pixels.  label_rate: for label logits, which begin with ``sharpness`` for
        an image's own class and 0 for the others; without sharpness labels are hard.  more: other tensors that are
        learnt, each with its step size.  All step sizes fall along a half cosine over the budget.
        clip: cut each gradient to twice its usual length (a moving average, as in RaT-BPTT, Feng et al. 2024).
        """
        self.problem = problem
        self.pixels = first_pixels(problem, problem.start or start, contrast, rng).requires_grad_(True)
        self._own = functional.one_hot(torch.from_numpy(problem.targets), problem.class_count).float()
        self._own = self._own.to(problem.device)
        self.logits = None if sharpness is None else (self._own * sharpness).requires_grad_(True)
        moved = [(self.pixels, rate), *([] if self.logits is None else [(self.logits, label_rate)]), *more]
        self._rates = [each for _, each in moved]
        self.optimiser = torch.optim.Adam([{"params": [each], "lr": step} for each, step in moved], betas=betas)
        self._clip = clip
        self._usual = 0.0

    def seen(self) -> torch.Tensor:
        """Pixels as a device will have them, rounded and of the input's size; differentiable."""
        return self.problem.enlarged(rounded(self.pixels, self.problem.levels))

    def labels(self) -> torch.Tensor:
        """Labels float32 [n, k], rows sum to 1; differentiable where they are learnt."""
        return self._own if self.logits is None else torch.softmax(self.logits, dim=1)

    def move(self, loss: torch.Tensor, done: float) -> None:
        """One step down the gradient of ``loss``, which is this worker's part of the whole; none if it is not finite.

        done: the share of the budget that is used up, 0-1.
        """
        moved = self._moved()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss, inputs=moved)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in moved]
        self.problem.workers.add_up(gradients)
        for tensor, gradient in zip(moved, gradients, strict=True):
            tensor.grad = gradient
        if not self._cut(moved):
            return
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = annealed(rate, done)
        self.optimiser.step()

    def snapshot(self, schedule: Schedule | None = None) -> Snapshot:
        """The set as it stands, in native counts and before rounding."""
        images = self.problem.normalise.restore(self.pixels.detach()).cpu().numpy().copy()
        return Snapshot(images, self.labels().detach().cpu().numpy().copy(), schedule)

    def state(self) -> State:
        return {
            "moved": [each.detach() for each in self._moved()],
            "optimiser": self.optimiser.state_dict(),
            "usual": self._usual,
        }

    def restore(self, state: State) -> None:
        with torch.no_grad():
            for mine, stored in zip(self._moved(), state["moved"], strict=True):
                mine.copy_(stored)
        self.optimiser.load_state_dict(state["optimiser"])
        self._usual = state["usual"]

    def _moved(self) -> list[torch.Tensor]:
        return [each for group in self.optimiser.param_groups for each in group["params"]]

    def _cut(self, moved: list[torch.Tensor]) -> bool:
        """Cut the gradient to the longest allowed; False if it is not finite."""
        limit = LONGEST * self._usual if self._clip and self._usual else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(moved, limit))
        if not math.isfinite(norm):
            return False
        kept = min(norm, limit)
        self._usual = 0.9 * self._usual + 0.1 * kept if self._usual else kept
        return True
