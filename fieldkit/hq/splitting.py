"""Cutting a training set into what is distilled, what selects, and what the bundle carries as its probe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fieldkit.bundle.samples import Samples
from fieldkit.tasks import classification

HELD_OUT_SHARE = 0.1
HELD_OUT_MOST = 5000


@dataclass(frozen=True)
class Splits:
    """Three parts of the training set that share no sample.

    real: what the method sees.  held_out: what snapshots are selected on.  probe: what the bundle carries, or None.
    """

    real: Samples
    held_out: Samples
    probe: Samples | None


def held_out_size(count: int, class_count: int) -> int:
    """How many of ``count`` training samples select: a tenth, at most 5,000, at least one per class."""
    return max(min(round(HELD_OUT_SHARE * count), HELD_OUT_MOST), class_count)


def split(train: Samples, class_count: int, probe: int, seed: int) -> Splits:
    """Cut ``train`` at random, evenly over its classes; ``probe`` is a number of samples in all.

    Images stay where they are, apart from those of the probe, which the bundle carries.
    """
    rng = np.random.default_rng([seed, 1])
    groups = [rng.permutation(group) for group in classification.group(train.targets, class_count)]
    taken, groups = _take(groups, probe)
    held_out, groups = _take(groups, held_out_size(len(train), class_count))
    return Splits(
        real=train.part(np.sort(np.concatenate(groups))),
        held_out=train.part(held_out),
        probe=train.take(taken) if probe else None,
    )


def _take(groups: list[np.ndarray], count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """``count`` positions, as evenly over the classes as it goes, and what is left of the groups."""
    shares = [count // len(groups) + (index < count % len(groups)) for index in range(len(groups))]
    taken = [group[:share] for group, share in zip(groups, shares, strict=True)]
    return np.concatenate(taken), [group[share:] for group, share in zip(groups, shares, strict=True)]
