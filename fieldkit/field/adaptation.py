"""Adapting a trained model on a device: a few labelled samples of its own, and the distilled set against forgetting.

Every step mixes the device's samples with replayed distilled images, each class in its share (Chaudhry et al. 2019, see
``replay``).  A new class takes the next spare output, whose weights start from the features of its samples
(``imprinting``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fieldkit import __version__
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import Initial, Recipe, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.errors import UsageError
from fieldkit.field import exporting
from fieldkit.field.comparison import HOLD_OUT, Comparison, compare, distilled_counts, remembered
from fieldkit.field.datasets import Dataset
from fieldkit.field.endurance import Job
from fieldkit.field.imprinting import Weights, imprinted
from fieldkit.field.local import Local, join
from fieldkit.field.prediction import Predictor
from fieldkit.field.reopening import Reopened
from fieldkit.field.replay import balanced
from fieldkit.field.training import Trained, widened
from fieldkit.tasks import classification

ADAPTED = "fieldkit.adapted"
"""Metadata of a model: JSON, what it was adapted to, one entry each time."""
SCOPES = ("head", "norm-bias", "full")
STEPS, WARMUP, RATE = 60, 5, 0.1
# What a model's metadata says that stays true when it is adapted.
KEPT = (exporting.RADIOMETRY, exporting.BUNDLE, exporting.RECIPE, exporting.SEED, exporting.STEPS)
PART = 100
"""The shares of a batch are counted in this many parts."""

Train = Callable[[Job], Trained]


@dataclass(frozen=True)
class Options:
    """How to adapt.

    scope: which train program of the recipe trains.
    steps, rate: None takes this module's; a rate of None is ``RATE`` times the recipe's highest.
    replay: share of each batch that is replayed, 0-1; None gives each class the same, wherever it comes from.
    hold_out: share of the device's samples that only measures, 0-1.
    """

    scope: str = "full"
    steps: int | None = None
    rate: float | None = None
    replay: float | None = None
    hold_out: float = 0.2
    seed: int = 0


@dataclass(frozen=True)
class Adapted:
    """What an adaptation made.

    content: the model file.  comparisons: before and after, on the local hold-out if there is one, and on what shows
    whether the model still knows its bundle.
    """

    content: bytes
    trained: Trained
    local: Local
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        local = self.local
        return {
            "classes": list(local.classes),
            "new": list(local.classes[local.known :]),
            "samples": {"train": len(local.train), "held_out": 0 if local.held_out is None else len(local.held_out)},
            "comparisons": [each.to_json() for each in self.comparisons],
        }


def adapt(model: Reopened, bundle: Bundle, data: Dataset, options: Options, train: Train) -> Adapted:
    """Fine-tune ``model`` on ``data`` while replaying what ``bundle`` distilled.

    train: runs the training, as ``endurance.Mission.train`` does.
    Raises UsageError for an option out of range, a scope that the recipe has not, or more new classes than there are
    spare ones; DataError for data that does not fit; what ``train`` raises.
    """
    local = join(data, bundle.manifest, model.classes, hold_out=options.hold_out, seed=options.seed)
    job = plan(model, bundle, local, options)
    trained = train(job)
    new = list(local.classes[local.known :])
    entry = {"data": local.name, "samples": len(local.train), "new": new, **asdict(options), "steps": trained.steps}
    content = rewritten(model, bundle, trained, local.classes, entry)
    before, after = Predictor.open(model.content), Predictor.open(content)
    sets = [remembered(bundle)]
    if local.held_out is not None:
        sets.insert(0, (HOLD_OUT, local.held_out))
    return Adapted(content, trained, local, tuple(compare(where, before, after, each) for where, each in sets))


def plan(model: Reopened, bundle: Bundle, local: Local, options: Options) -> Job:
    """The training that adapts: its samples, first weights and schedule."""
    samples, groups, shares = mixed(bundle.training_set(), local, options.replay)
    return Job(
        model.recipe,
        samples,
        options.scope,
        options.seed,
        schedule(model.recipe, STEPS if options.steps is None else options.steps, options.rate, RATE),
        Initial(weights=first_weights(model, bundle, local)),
        balanced(groups, shares),
        about={"bundle": bundle.digest, "model": hashlib.sha256(model.content).hexdigest(), "shares": shares},
    )


def schedule(recipe: Recipe, steps: int, rate: float | None, part: float) -> Schedule:
    """A cosine from the rate down to 0, after a few steps of warming up.

    rate: None takes ``part`` of the highest rate of the recipe's own schedule.
    """
    if steps < 1:
        raise UsageError("too few steps", where="steps", found=steps, expected="at least 1")
    own = recipe.schedule
    if rate is None:
        rate = part * max(own.learning_rate(step) for step in range(own.steps))
    if not 0.0 < rate < math.inf:
        raise UsageError("not a learning rate", where="rate", found=rate, expected="a number above 0")
    return Schedule(steps, own.batch, "cosine", rate, min(WARMUP, steps - 1))


def mixed(replayed: Samples, local: Local, replay: float | None) -> tuple[Samples, list[np.ndarray], list[int]]:
    """One set of both, float32 counts and labels; its groups, one for each class of each source; and their shares.

    replay: the share of a batch that all replayed groups get together; None gives each class the same, in equal parts
    where it comes from both sources.
    """
    if replay is not None and not 0.0 <= replay < 1.0:
        raise UsageError("not a share of a batch", where="replay", found=replay, expected="0 to less than 1")
    count = len(local.classes)
    own = Samples(local.train.images.astype(np.float32), np.eye(count, dtype=np.float32)[local.train.targets])
    mine = {slot: each for slot, each in enumerate(classification.group(local.train.targets, count)) if len(each)}
    if replay == 0.0:
        return own, list(mine.values()), [1] * len(mine)
    strongest = classification.group(replayed.targets.argmax(axis=1), count)
    theirs = {slot: each + len(own) for slot, each in enumerate(strongest) if len(each)}
    if replay is None:
        shares = [1 if slot in theirs else 2 for slot in mine] + [1 if slot in mine else 2 for slot in theirs]
    else:
        parts = (len(mine), 1.0 - replay), (len(theirs), replay)
        shares = [max(round(PART * share / groups), 1) for groups, share in parts for _ in range(groups)]
    targets = np.concatenate([own.targets, widened(replayed.targets, count)])
    images = np.concatenate([own.images, replayed.images])
    return Samples(images, targets), [*mine.values(), *theirs.values()], shares


def first_weights(model: Reopened, bundle: Bundle, local: Local) -> Weights:
    """The model's weights; those of new classes start from the features of their samples."""
    if not local.new:
        return model.weights
    known = distilled_counts(bundle)
    fresh = local.train.targets >= local.known
    images = np.concatenate([local.train.images[fresh], known.images])
    targets = np.concatenate([local.train.targets[fresh], known.targets])
    return imprinted(model.content, model.weights, images, targets, local.known)


def rewritten(
    model: Reopened, bundle: Bundle, trained: Trained, classes: Sequence[str], entry: Mapping[str, Any]
) -> bytes:
    """The model file with other weights and classes, and ``entry`` at the end of its history."""
    program = model.recipe.programs["predict"]
    kept = {key: model.metadata[key] for key in KEPT if key in model.metadata}
    history = [*json.loads(model.metadata.get(ADAPTED, "[]")), dict(entry)]
    metadata = kept | {
        exporting.CLASSES: json.dumps(list(classes), ensure_ascii=False),
        exporting.VERSION: __version__,
        ADAPTED: json.dumps(history, ensure_ascii=False),
    }
    used = len(classes) if bundle.manifest.spare_classes else None
    return exporting.complete_model(program, trained.weights, metadata, used)
