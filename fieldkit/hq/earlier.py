"""Bundles of earlier tasks, beside which a new set is made for a device that learns task after task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.enlarging import enlarge
from fieldkit.bundle.radiometry import default_bands
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.samples import Samples
from fieldkit.errors import DataError
from fieldkit.field.datasets import Dataset
from fieldkit.field.trust.admission import open_bundle
from fieldkit.hq.distil.problem import Earlier, Snapshot
from fieldkit.hq.evidence.accuracy import FieldScores
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.packing import Packing


@dataclass(frozen=True)
class Tasks:
    """Earlier tasks in the order in which a device has learnt them, joined.

    bundles: theirs.  classes: all of their names, joined by name.  known: their distilled sets in native counts,
    float32 [n, c, h, w] at the input's size, and labels float32 [n, k] over ``classes``.
    """

    bundles: tuple[Bundle, ...]
    classes: tuple[str, ...]
    known: Samples

    def posed(self, module: nn.Module, normalise: Normalise, device: str) -> Earlier:
        """For a method on ``device``, where ``normalise`` is already.  module: answers for earlier and own classes."""
        pixels = normalise(torch.from_numpy(self.known.images).to(device))
        return Earlier(pixels, torch.from_numpy(self.known.targets).to(device), module.to(device))

    def with_own(self, snapshot: Snapshot) -> Snapshot:
        """A task's own set and the earlier ones: images at the input's size, labels over all classes."""
        height, width = self.known.images.shape[2:]
        images = np.concatenate([self.known.images, enlarge(snapshot.images, height, width)])
        own = snapshot.labels.shape[1]
        old = np.pad(self.known.targets, ((0, 0), (0, own)))
        new = np.pad(snapshot.labels, ((0, 0), (len(self.classes), 0)))
        return replace(snapshot, images=images, labels=np.concatenate([old, new]))


def open_earlier(paths: Sequence[str | Path], dataset: Dataset) -> Tasks | None:
    """The bundles in these files, first learnt first; None without any.

    Raises DataError with every reason why ``dataset`` cannot be a task beside them, and what ``open_bundle`` raises.
    """
    if not paths:
        return None
    bundles = tuple(open_bundle(path).bundle for path in paths)
    found = [fault for path, bundle in zip(paths, bundles, strict=True) for fault in _faults(path, bundle, dataset)]
    digests = [each.digest for each in bundles]
    found += [f"{path} is named twice" for at, path in enumerate(paths) if digests[at] in digests[:at]]
    if found:
        remedy = "leave out what does not belong with this data, or read the data as the earlier bundles were read"
        raise DataError("--beside", found, remedy=remedy)
    return joined(bundles)


def joined(bundles: Sequence[Bundle]) -> Tasks:
    """The sets of some bundles over all of their classes; classes of the same name are one."""
    classes = tuple(dict.fromkeys(name for each in bundles for name in each.manifest.classes))
    images, labels = [], []
    for each in bundles:
        known = each.training_set()
        wide = np.zeros((len(known), len(classes)), np.float32)
        wide[:, [classes.index(name) for name in each.manifest.classes]] = known.targets
        images.append(known.images)
        labels.append(wide)
    return Tasks(tuple(bundles), classes, Samples(np.concatenate(images), np.concatenate(labels)))


def _faults(path: str | Path, bundle: Bundle, dataset: Dataset) -> list[str]:
    """Why no set of ``dataset`` can be learnt beside a bundle, one sentence each."""
    manifest, images = bundle.manifest, dataset.train.images
    faults = []
    if manifest.input_shape != images.shape[1:]:
        faults.append(f"{path}: its images have shape {manifest.input_shape}, those of the data {images.shape[1:]}")
    if manifest.radiometry.dtype != images.dtype.name:
        faults.append(f"{path}: its images are {manifest.radiometry.dtype}, those of the data {images.dtype.name}")
    bands, own = manifest.radiometry.bands, dataset.bands or default_bands(images.shape[1])
    if bands != tuple(own):
        faults.append(f"{path}: its bands are {', '.join(bands)}, those of the data {', '.join(own)}")
    again = [name for name in manifest.classes if name in dataset.classes]
    if again:
        faults.append(f"{path}: it has classes of the data already ({', '.join(again)}); a new task has new classes")
    return faults


def judge_among_all(
    tasks: Tasks, packing: Packing, recipe: Recipe, held_out: Samples, seeds: Sequence[int], threads: int | None
) -> Callable[[Snapshot], float]:
    """What a snapshot is worth to a device that has learnt the earlier tasks: its accuracy on ``held_out``, 0-1.

    A network is trained on all sets together, and answers among all classes.

    packing: of the task alone.  recipe: with outputs for earlier and own classes.  held_out: of the task.
    """
    manifest = replace(
        packing.manifest,
        classes=tasks.classes + packing.manifest.classes,
        recipes=(recipe.name,),
        spare_classes=0,
    )
    whole = Packing(manifest, {recipe.name: recipe}, None, packing.levels)
    scores = FieldScores(threads)
    moved = Samples(held_out.images, held_out.targets + len(tasks.classes))

    def judge(snapshot: Snapshot) -> float:
        bundle = whole.pack(tasks.with_own(snapshot))
        return float(np.mean(scores.accuracies(bundle, recipe.name, seeds, [moved])[0]))

    return judge
