"""What there is to learn in one call: a bundle's distilled set, or labelled samples of the device's own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import uniforms
from fieldkit.errors import IncompatibleBundle
from fieldkit.field.adaptation.local import join
from fieldkit.field.datasets import Dataset
from fieldkit.field.learning import exemplars
from fieldkit.field.learning.memory import DISTILLED, OWN, Part
from fieldkit.field.learning.state import State, Task
from fieldkit.tasks import classification

# Of a device's own samples, the share of each class that is held out, and how many in all at most.
HELD_OUT = 0.2
MOST_HELD_OUT = 200
SPLITS = 5 << 32


@dataclass(frozen=True)
class Lesson:
    """A task before it is learnt.

    task: as it will stand in the state.  state: with slots for all its classes, but otherwise as before.
    samples: what a training reads: images in native counts, float32 [n, width] labels over the slots in use.
    classes: int64 [n], each sample's slot.
    stored: of a bundle, the part as the memory keeps it; None for the device's own samples, of which it keeps some.
    """

    task: Task
    state: State
    samples: Samples
    classes: np.ndarray
    stored: Part | None = None


def from_bundle(state: State, bundle: Bundle) -> Lesson:
    """The lesson of a bundle's distilled set.  An older issue of the same bundle leaves the memory.

    Raises IncompatibleBundle for one that was made for another model or sensor, UsageError if there are not enough
    spare classes.
    """
    name, serial = bundle.manifest.name, bundle.serial
    faults = _bundle_faults(state, bundle)
    if faults:
        raise IncompatibleBundle(
            "a bundle that this state cannot learn: " + "; ".join(faults),
            where=name,
            remedy="begin a new STATE with it, or build it with the recipe of the state's first bundle",
        )
    state, slots = state.slots(bundle.manifest.classes, name)
    for each in state.tasks:
        if each.kind == DISTILLED and each.source == name and each.serial < serial:
            state = replace(state, memory=state.memory.without(each.digest))
    labels = np.zeros((len(bundle.images), state.width), np.float16)
    labels[:, slots] = bundle.labels
    classes = labels.argmax(axis=1)
    stored = Part(DISTILLED, bundle.digest, bundle.images, classes.astype(np.uint16), _places(classes), labels)
    probe = None if bundle.probe is None else replace(bundle.probe, targets=slots[bundle.probe.targets])
    shown = tuple(int(slot) for slot in np.unique(classes))
    task = Task(DISTILLED, name, bundle.digest, serial, shown, probe)
    return Lesson(task, state, stored.samples(state.manifest.input_shape[1:], state.width), classes, stored)


def from_data(state: State, dataset: Dataset, seed: int) -> Lesson:
    """The lesson of a device's own labelled samples; what it measures by is the test split, or held out of train.

    seed: draws which samples are held out.
    Raises DataError for images of another kind than the model takes, UsageError if there are not enough spare classes.
    """
    share = min(HELD_OUT, MOST_HELD_OUT / max(len(dataset.train), 1))
    local = join(dataset, state.manifest, state.manifest.classes, hold_out=share, seed=seed)
    digest = hashlib.sha256(json.dumps([dataset.train.digest(), *dataset.classes]).encode()).hexdigest()
    state, _ = state.slots(local.classes, dataset.name)
    classes, probe = local.train.targets, local.held_out
    if probe is not None:
        probe = probe.take(_spread(probe.targets, state.width, MOST_HELD_OUT, seed))
    labels = np.eye(state.width, dtype=np.float32)[classes]
    shown = tuple(int(slot) for slot in np.unique(classes))
    task = Task(OWN, dataset.name, digest, 0, shown, probe)
    return Lesson(task, state, Samples(local.train.images, labels), classes)


def exemplar_part(lesson: Lesson, features: np.ndarray, choice: str, seed: int) -> Part:
    """Of the device's own samples, as many of each class as could ever fit into the memory, quantised; at least one.

    features: float32 [n, f] of the lesson's samples.
    """
    state = lesson.state
    images, slots = lesson.samples.images, np.unique(lesson.classes)
    whole = _quantised(images[:1])
    room = state.memory.limit // max(Part(OWN, "", whole, np.zeros(1, np.uint16), np.zeros(1)).cost, 1)
    chosen, ranks = [], []
    for slot in slots:
        positions = np.flatnonzero(lesson.classes == slot)
        stream = len(state.tasks) << 16 | int(slot)
        order, own = exemplars.ranks(choice, features[positions], seed=seed, stream=stream, most=max(room, 1))
        chosen.append(positions[order])
        ranks.append(own)
    kept = np.concatenate(chosen)
    classes = lesson.classes[kept].astype(np.uint16)
    return Part(OWN, lesson.task.digest, _quantised(images[kept]), classes, np.concatenate(ranks))


def _quantised(images: np.ndarray) -> Pixels:
    """Native counts in 8 bits: exact for a sensor of 8 bits, else each band over its own range."""
    if images.dtype == np.uint8:
        bands = images.shape[1]
        return Pixels(np.ascontiguousarray(images), np.ones(bands, np.float32), np.zeros(bands, np.float32))
    return Pixels.encode(images.astype(np.float32), "uint8")


def _places(classes: np.ndarray) -> np.ndarray:
    """Each image's place among those of its class, as a share: float64 [n] in [0, 1)."""
    ranks = np.empty(len(classes))
    for slot in np.unique(classes):
        mine = np.flatnonzero(classes == slot)
        ranks[mine] = np.arange(len(mine)) / len(mine)
    return ranks


def _spread(targets: np.ndarray, class_count: int, count: int, seed: int) -> np.ndarray:
    """Positions of ``count`` samples at most, as many of each class as can be: int64, ascending."""
    keys = uniforms(seed, SPLITS, len(targets))
    turns = np.empty(len(targets))
    for group in classification.group(targets, class_count):
        turns[group[np.argsort(keys[group])]] = np.arange(len(group))
    return np.sort(np.lexsort((keys, turns))[:count])


def _bundle_faults(state: State, bundle: Bundle) -> list[str]:
    """Why the state's model cannot learn from a bundle, one sentence each."""
    known, other = state.manifest, bundle.manifest
    faults = []
    architectures = [dict(each.architecture) for each in bundle.recipes.values()]
    if dict(state.recipe.architecture) not in architectures:
        faults.append(f"its recipes are {architectures}; the state's is {dict(state.recipe.architecture)}")
    if other.input_shape != known.input_shape:
        faults.append(f"its images have shape {other.input_shape}; the state's {known.input_shape}")
    for name in ("bands", "dtype"):
        found, expected = getattr(other.radiometry, name), getattr(known.radiometry, name)
        if found != expected:
            faults.append(f"its {name} are {found}; the state's {expected}")
    return faults
