"""Which of several trainings are worth going on with: successive halving.

Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter Optimization, algorithm 1, with a
third kept at each rung.  It differs in two ways.  A rung is a whole training on a shortened schedule, not the first
part of a long one: half-way down a cosine the learning rate is still high, and what a model scores there says little.
And those whose score is within the scores' own error of the last that is kept are kept as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

ETA = 3


class OutOfTimeError(Exception):
    """Raised by a training that would pass the deadline; what was measured before counts."""


@dataclass(frozen=True)
class Score:
    """The accuracies, 0-1, of one training for each seed; ``steps`` of each."""

    accuracies: tuple[float, ...]
    steps: int

    @property
    def mean(self) -> float:
        return sum(self.accuracies) / len(self.accuracies)


@dataclass(frozen=True)
class Reached:
    """How far a training got: the share of its full length, and the score there, or None where it diverged."""

    share: float
    score: Score | None


Train: TypeAlias = "Callable[[str, float], Score | None]"
Margin: TypeAlias = "Callable[[float], float]"


def rungs(count: int, eta: int = ETA) -> tuple[float, ...]:
    """The shares of the full length at which ``count`` trainings are compared; the last is 1."""
    first = 0
    while eta**first < count:
        first += 1
    return tuple(float(eta) ** -power for power in range(first, -1, -1))


def kept(count: int, eta: int = ETA) -> int:
    """How many of ``count`` go on to the next rung, without those that tie."""
    return -(-count // eta)


def survivors(scores: Mapping[str, float], margin: Margin, eta: int = ETA) -> list[str]:
    """The best of these by score, best first: a share of 1 / eta, and those within ``margin`` of the last of them."""
    ordered = sorted(scores, key=lambda name: -scores[name])
    if not ordered:
        return []
    last = scores[ordered[kept(len(ordered), eta) - 1]]
    return [name for name in ordered if scores[name] >= last - margin(last)]


@dataclass(frozen=True)
class Halved:
    """reached: by name, how far each training got.  alive: those of the last rung that was begun, best first."""

    reached: Mapping[str, Reached]
    alive: tuple[str, ...]


def halve(names: Sequence[str], shares: Sequence[float], train: Train, margin: Margin) -> Halved:
    """Train all of ``names`` for the first of ``shares``, those that survive for the next, and so on to the last.

    train: a name and a share to a score; None for a training that diverged, which ends it; OutOfTimeError ends all.
    margin: the error of a score, in the same unit, which a lower score may be in truth.
    """
    reached: dict[str, Reached] = {}
    alive = list(names)
    with suppress(OutOfTimeError):
        for place, share in enumerate(shares):
            for name in alive:
                reached[name] = Reached(share, train(name, share))
            scores = {name: each.score.mean for name in alive if (each := reached[name]).score is not None}
            # The best first, so that it is trained to the end if time should not last for all.
            if place + 1 < len(shares):
                alive = survivors(scores, margin)
    return Halved(reached, tuple(alive))
