"""A device's own labelled samples, joined by name with the classes of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import uniforms
from fieldkit.errors import DataError, UsageError
from fieldkit.field.datasets import Dataset
from fieldkit.tasks import classification

# The stream of a seed's random numbers that decides what is held out, one for each class from here on.
HOLD_OUT = 5 << 32
# A class of fewer samples is trained on whole.
ENOUGH = 3


@dataclass(frozen=True)
class Local:
    """Samples to adapt to.

    classes: of the model afterwards: what it knows, then the new ones.  new: how many of them, the last, are new.
    train, held_out: native counts and int64 places among ``classes``; they share no sample.
    """

    name: str
    classes: tuple[str, ...]
    new: int
    train: Samples
    held_out: Samples | None

    @property
    def known(self) -> int:
        """How many classes the model knew before."""
        return len(self.classes) - self.new


def join(data: Dataset, manifest: Manifest, known: Sequence[str], *, hold_out: float, seed: int) -> Local:
    """The samples of ``data`` under the classes of a model that has ``known`` ones; new ones take the next free places.

    hold_out: the share of each class's samples that only measures, 0-1; the test split, where the data has one, does
    so in its place.  Of ``ENOUGH`` samples or more at least one is held out, and at least one stays.
    Raises UsageError where there is no room for the new classes, DataError that lists all that does not fit.
    """
    if not 0.0 <= hold_out < 1.0:
        raise UsageError("not a share of the samples", where="hold-out", found=hold_out, expected="0 to less than 1")
    faults = list(_faults(data, manifest, known))
    if faults:
        raise DataError(data.name, faults, remedy="adapt with images of the kind that the bundle was made for")
    counts = np.bincount(data.train.targets, minlength=len(data.classes))
    new = [name for name, count in zip(data.classes, counts, strict=True) if count and name not in known]
    room = len(manifest.classes) + manifest.spare_classes - len(known)
    if len(new) > room:
        raise UsageError(
            "the model has no room for these classes",
            where=data.name,
            found=f"{len(new)} new classes: {', '.join(new)}",
            expected=f"at most {room} beside {', '.join(known)}",
            remedy="build the bundle with fieldkit build --spare-classes N, or name folders as the model's classes are",
        )
    classes = (*known, *new)
    places = np.array([classes.index(name) if name in classes else -1 for name in data.classes], np.int64)
    train, held_out = data.train, data.test
    if held_out is None:
        kept, out = _cut(train.targets, len(data.classes), hold_out, seed)
        train, held_out = train.take(kept), train.take(out) if len(out) else None
    return Local(
        data.name,
        classes,
        len(new),
        Samples(train.images, places[train.targets]),
        None if held_out is None else Samples(held_out.images, places[held_out.targets]),
    )


def _faults(data: Dataset, manifest: Manifest, known: Sequence[str]) -> Iterator[str]:
    images, wanted = data.train.images, manifest.input_shape
    if images.dtype.name != manifest.radiometry.dtype:
        yield f"pixels are {images.dtype.name}, the bundle's are {manifest.radiometry.dtype}"
    if images.shape[1:] != wanted:
        yield f"images (bands, height, width) are {images.shape[1:]}, the bundle's are {wanted}"
    if data.test is not None:
        untrained = set(np.unique(data.test.targets)) - set(np.unique(data.train.targets))
        for name in sorted({data.classes[index] for index in untrained} - set(known)):
            yield f"class {name!r} is new and has test images, but none to train with"


def _cut(targets: np.ndarray, count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions that stay and those that are held out, class by class at random."""
    kept, out = [], []
    for index, group in enumerate(classification.group(targets, count)):
        order = group[np.argsort(uniforms(seed, HOLD_OUT + index, len(group)), kind="stable")]
        taken = 0 if share == 0.0 or len(group) < ENOUGH else min(max(round(share * len(group)), 1), len(group) - 1)
        kept.append(order[taken:])
        out.append(order[:taken])
    return np.sort(np.concatenate(kept)), np.sort(np.concatenate(out))
