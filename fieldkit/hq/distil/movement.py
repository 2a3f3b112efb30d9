"""How tensors move down a gradient that several workers make: Adam, with step sizes that fall over the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fieldkit.hq.distil.problem import State, annealed
from fieldkit.hq.distil.workers import Workers

# How much longer than usual a gradient may be before it is cut.
LONGEST = 2.0


class Movement:
    """Adam over some tensors, each with its own step size, which falls along a half cosine.

    tensors: what moves; leaves that take gradients.
    """

    def __init__(
        self,
        workers: Workers,
        moved: Sequence[tuple[torch.Tensor, float]],
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        clip: bool = False,
    ) -> None:
        """moved: tensors and their first step sizes.

        clip: cut each gradient to twice its usual length (a moving average, as in RaT-BPTT, Feng et al. 2024).
        """
        self.tensors = [each for each, _ in moved]
        self._workers = workers
        self._rates = [rate for _, rate in moved]
        self._optimiser = torch.optim.Adam([{"params": [each], "lr": rate} for each, rate in moved], betas=betas)
        self._clip = clip
        self._usual = 0.0

    def step(self, loss: torch.Tensor, done: float) -> bool:
        """One step down the gradient of ``loss``, which is this worker's part of the whole; none if it is not finite.

        done: the share of the way, 0-1, along which step sizes fall.  Returns whether the tensors moved.
        """
        self._optimiser.zero_grad()
        torch.autograd.backward(loss, inputs=self.tensors)
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.tensors]
        self._workers.add_up(gradients)
        for tensor, gradient in zip(self.tensors, gradients, strict=True):
            tensor.grad = gradient
        if not self._cut():
            return False
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = annealed(rate, done)
        self._optimiser.step()
        return True

    def state(self) -> State:
        return {
            "tensors": [each.detach() for each in self.tensors],
            "optimiser": self._optimiser.state_dict(),
            "usual": self._usual,
        }

    def restore(self, state: State) -> None:
        with torch.no_grad():
            for mine, stored in zip(self.tensors, state["tensors"], strict=True):
                mine.copy_(stored)
        self._optimiser.load_state_dict(state["optimiser"])
        self._usual = state["usual"]

    def _cut(self) -> bool:
        """Cut the gradient to the longest allowed; False if it is not finite."""
        limit = LONGEST * self._usual if self._clip and self._usual else math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.tensors, limit))
        if not math.isfinite(norm):
            return False
        kept = min(norm, limit)
        self._usual = 0.9 * self._usual + 0.1 * kept if self._usual else kept
        return True
