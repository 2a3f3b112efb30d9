"""Replay: each step of a training mixes what is new with what must not be forgotten, in a balanced way.

Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019 (arXiv 1902.10486): a step on new samples
together with remembered ones.  Here the samples fall into groups, and a step takes as many of each group as its share
of the batch says, however few the group has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fieldkit.bundle.samples import Samples
from fieldkit.errors import UsageError
from fieldkit.field.engine.training import Feed, Feeding, minibatch

# Orders of a group are those of a training whose seed is the group's own.
STRIDE = 1_000_003


@dataclass(frozen=True)
class Joined:
    """The rows of two arrays after each other, each read when it is asked for, as float32: many samples need not be
    copied, or be of one dtype, to be learnt together.
    """

    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Both, in the place of an array: rows are read by positions or slices, as of a ``View``."""
        return cast(np.ndarray, cls(first, second))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.first.shape[1:])

    @property
    def ndim(self) -> int:
        return self.first.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> np.ndarray:
        """The rows at these positions: a copy."""
        positions = np.arange(len(self))[index]
        early = positions < len(self.first)
        found = np.empty((len(positions), *self.shape[1:]), np.float32)
        found[early] = self.first[positions[early]]
        found[~early] = self.second[positions[~early] - len(self.first)]
        return found


class Balanced(Feed):
    """A feed in which ``cycle`` says whose turn it is: place p of the row of all batches goes to a sample of group
    ``cycle[p % len(cycle)]``, whose samples take turns in an order that is drawn anew each time all have been seen.
    """

    def __init__(
        self,
        feeds: Mapping[str, np.ndarray],
        samples: Samples,
        seed: int,
        where: str,
        groups: Sequence[np.ndarray],
        cycle: Sequence[int],
    ) -> None:
        self.groups = groups
        self.cycle = np.asarray(cycle, np.int64)
        super().__init__(feeds, samples, seed, where)

    def positions(self, step: int) -> np.ndarray:
        """Which samples step ``step`` takes: int64 [batch]."""
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        turns = self.cycle[places % len(self.cycle)]
        found = np.empty(self.batch, np.int64)
        for group in np.unique(turns):
            mine = turns == group
            found[mine] = self._row(int(group), int(self._turns_before(int(group), int(places[0]))), int(mine.sum()))
        return found

    def _turns_before(self, group: int, place: int) -> int:
        """How many places before ``place`` belong to ``group``."""
        own = self.cycle == group
        return int(place // len(own) * own.sum() + own[: place % len(own)].sum())

    def _row(self, group: int, first: int, count: int) -> np.ndarray:
        """``count`` samples of ``group`` from the ``first`` in its endless row on."""
        members = self.groups[group]
        seed = (self.seed + STRIDE * (group + 1)) % (1 << 63)
        rows = [minibatch(seed, turn, len(members), 1) for turn in range(first, first + count)]
        return np.asarray(members[np.concatenate(rows)], np.int64)


def balanced(groups: Sequence[np.ndarray], shares: Sequence[int] | None = None) -> Feeding:
    """A ``Feeding`` that gives each of ``groups`` (int64 positions of its samples) its share of every step.

    shares: of each group, as whole numbers; None gives all the same.  Raises UsageError for a group without samples.
    """
    if not all(len(each) for each in groups):
        raise UsageError("a group without samples", where="replay", found=0, expected="at least 1")
    cycle = interleaved([1] * len(groups) if shares is None else list(shares))

    def feeding(feeds: Mapping[str, np.ndarray], samples: Samples, seed: int, where: str) -> Feed:
        return Balanced(feeds, samples, seed, where, groups, cycle)

    return feeding


def interleaved(shares: Sequence[int]) -> list[int]:
    """Indices of ``shares``, each as often as its share says, spread as evenly as can be: (2, 1) to [0, 1, 0]."""
    turns = [((turn + 0.5) / share, index) for index, share in enumerate(shares) for turn in range(share)]
    return [index for _, index in sorted(turns)]
