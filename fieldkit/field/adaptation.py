"""Adapting a trained model on a device: a few labelled samples of its own, and the distilled set against forgetting.

New classes take the next spare outputs.  The last layer is solved in closed form, over the distilled set and the
device's samples together (``lastlayer``).  Scope head is done then; the others go on from there with steps of training
that mix new and replayed samples, each class in its share (Chaudhry et al. 2019, see ``replay``).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from fieldkit import __version__
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import Initial, Recipe, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.errors import UsageError
from fieldkit.field import exporting
from fieldkit.field.comparison import HOLD_OUT, Comparison, compare, distilled_counts, remembered, score_before
from fieldkit.field.datasets import Dataset
from fieldkit.field.endurance import Job
from fieldkit.field.lastlayer import Weights, solved
from fieldkit.field.local import Local, join
from fieldkit.field.prediction import Predictor
from fieldkit.field.reopening import Reopened
from fieldkit.field.replay import balanced
from fieldkit.field.training import Trained, widened
from fieldkit.field.views import views
from fieldkit.tasks import classification

ADAPTED = "fieldkit.adapted"
"""Metadata of a model: JSON, what it was adapted to, one entry each time."""
SCOPES = ("head", "norm-bias", "full")
STEPS, WARMUP, RATE = 60, 5, 0.1
# What a model's metadata says that stays true when it is adapted.
KEPT = (exporting.RADIOMETRY, exporting.BUNDLE, exporting.RECIPE, exporting.SEED, exporting.STEPS)
PART = 100
"""The shares of a batch are counted in this many parts."""


class Train(Protocol):
    """Runs a training and leaves ``closing`` seconds for what comes after it, as ``endurance.Mission.train`` does."""

    def __call__(self, job: Job, *, closing: float) -> Trained: ...


@dataclass(frozen=True)
class Adaptation:
    """How to adapt.

    scope: what changes, one of ``SCOPES``: the last layer alone, which is solved; or which train program goes on.  None
    takes head, or full where ``steps`` are named or the last layer cannot be solved.
    steps, rate: of training; None takes this module's, and for scope head none; a rate of None is ``RATE`` times the
    recipe's highest.
    replay: share of what is learnt that is replayed, 0-1; None gives each class the same, wherever it comes from.
    hold_out: share of the device's samples that only measures, 0-1.
    mirror: whether the device's samples may be mirrored, left to right, as far as the recipe does not say so.
    """

    scope: str | None = None
    steps: int | None = None
    rate: float | None = None
    replay: float | None = None
    hold_out: float = 0.2
    mirror: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Adapted:
    """What an adaptation made.

    content: the model file.  scope: what was changed.
    comparisons: before and after, on the local hold-out if there is one, and on what shows whether the model still
    knows its bundle.
    """

    content: bytes
    scope: str
    trained: Trained
    local: Local
    comparisons: tuple[Comparison, ...]

    def to_json(self) -> dict[str, Any]:
        local = self.local
        return {
            "scope": self.scope,
            "classes": list(local.classes),
            "new": list(local.classes[local.known :]),
            "samples": {"train": len(local.train), "held_out": 0 if local.held_out is None else len(local.held_out)},
            "comparisons": [each.to_json() for each in self.comparisons],
        }


def adapt(model: Reopened, bundle: Bundle, data: Dataset, options: Adaptation, train: Train) -> Adapted:
    """Adapt ``model`` to ``data`` while replaying what ``bundle`` distilled.

    train: what runs the training, where there is any.
    Raises UsageError for an option out of range, a scope that the recipe has not, or more new classes than there are
    spare ones; DataError for data that does not fit; what ``train`` raises.
    """
    _check(options)
    local = join(data, bundle.manifest, model.classes, hold_out=options.hold_out, seed=options.seed)
    sets = [remembered(bundle)] if local.held_out is None else [(HOLD_OUT, local.held_out), remembered(bundle)]
    began = time.monotonic()
    before = [score_before(model.content, samples, len(local.classes)) for _, samples in sets]
    scope, trained = _changed(model, bundle, local, options, partial(train, closing=2.0 * (time.monotonic() - began)))
    new = list(local.classes[local.known :])
    entry = {"data": local.name, "samples": len(local.train), "new": new, **asdict(options)}
    entry |= {"scope": scope, "steps": trained.steps}
    content = rewritten(model, bundle, trained, local.classes, entry)
    after = Predictor.open(content)
    found = (compare(where, local.known, one, after, each) for (where, each), one in zip(sets, before, strict=True))
    return Adapted(content, scope, trained, local, tuple(found))


def _changed(
    model: Reopened, bundle: Bundle, local: Local, options: Adaptation, train: Callable[[Job], Trained]
) -> tuple[str, Trained]:
    """The scope that was taken, and the weights: solved, and trained from there on if that is wanted."""
    start = solve(model, bundle, local, options)
    scope = options.scope or ("head" if start is not None and options.steps is None else "full")
    if start is not None and scope == "head" and options.steps is None:
        return scope, Trained(model.recipe, start, np.zeros(0, np.float32), options.seed, 0)
    return scope, train(plan(model, bundle, local, replace(options, scope=scope), start or model.weights))


def _check(options: Adaptation) -> None:
    if options.scope not in (None, *SCOPES):
        raise UsageError("unknown scope", where="scope", found=options.scope, expected=" or ".join(SCOPES))
    if options.replay is not None and not 0.0 <= options.replay < 1.0:
        raise UsageError("not a share of a batch", where="replay", found=options.replay, expected="0 to less than 1")


def solve(model: Reopened, bundle: Bundle, local: Local, options: Adaptation) -> Weights | None:
    """The model's weights with the last layer that fits all samples; None where the model has no linear last layer.

    The device's samples count in all of their views.
    """
    known, count = distilled_counts(bundle), len(local.classes)
    _, groups, shares = mixed(bundle.training_set(), local, options.replay)
    each = np.zeros(len(local.train) + len(known))
    for group, share in zip(groups, shares, strict=True):
        each[group] = share / len(group)
    seen = list(views(local.train.images, model.recipe.augmentation, options.mirror))
    parts = [Samples(images, local.train.targets) for images in seen]
    counts = [each[: len(local.train)] / len(seen)] * len(seen)
    if options.replay != 0.0:
        parts.append(known)
        counts.append(each[len(local.train) :])
    images, targets = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "targets"))
    assert targets.max() < count
    return solved(model.content, model.weights, images, targets, np.concatenate(counts))


def plan(model: Reopened, bundle: Bundle, local: Local, options: Adaptation, weights: Weights) -> Job:
    """The training that adapts, from ``weights`` on: its samples and schedule."""
    samples, groups, shares = mixed(bundle.training_set(), local, options.replay)
    return Job(
        model.recipe,
        samples,
        options.scope or "full",
        options.seed,
        schedule(model.recipe, STEPS if options.steps is None else options.steps, options.rate, RATE),
        Initial(weights=weights),
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
