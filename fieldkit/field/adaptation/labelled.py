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
from fieldkit.errors import UsageError
from fieldkit.field.adaptation.comparison import HOLD_OUT, Comparison, compare, score_before
from fieldkit.field.adaptation.knowledge import Knowledge, knowledge
from fieldkit.field.adaptation.lastlayer import Weights, solved
from fieldkit.field.adaptation.local import Local, join
from fieldkit.field.adaptation.mixing import joined, mixed
from fieldkit.field.adaptation.views import views
from fieldkit.field.datasets import Dataset
from fieldkit.field.endurance.mission import Job
from fieldkit.field.engine.replay import balanced
from fieldkit.field.engine.training import Trained
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.models.reopening import Reopened
from fieldkit.field.models.unseen import ADAPTED, PROBE, history

SCOPES = ("head", "norm-bias", "full")
STEPS, WARMUP, RATE = 60, 5, 0.1
# What a model's metadata says that stays true when it is adapted.
KEPT = (exporting.RADIOMETRY, exporting.BUNDLE, exporting.RECIPE, exporting.SEED, exporting.STEPS)
PART = 100
"""A class's share of a batch is counted in this many parts."""


class Train(Protocol):
    """Runs a training and leaves ``closing`` seconds for what comes after it, as ``mission.Mission.train`` does."""

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
    mirror: whether images may be mirrored, left to right, as far as the recipe does not say so.
    keep_probe: learn from none of the bundle's probe, so that all of it measures which was not learnt from earlier.
    """

    scope: str | None = None
    steps: int | None = None
    rate: float | None = None
    replay: float | None = None
    hold_out: float = 0.2
    mirror: bool = False
    keep_probe: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Adapted:
    """What an adaptation made.

    content: the model file.  scope: what was changed.
    known: what the bundle taught, and what of it was replayed and measured.
    comparisons: before and after, on the local hold-out if there is one, and on what shows whether the model still
    knows its bundle.
    """

    content: bytes
    scope: str
    trained: Trained
    local: Local
    known: Knowledge
    comparisons: tuple[Comparison, ...]

    @property
    def probe_learnt(self) -> int:
        """How many images of the bundle's probe were learnt from."""
        return sum(len(each) for each in self.known.real)

    def to_json(self) -> dict[str, Any]:
        local, probe = self.local, self.known.probe
        return {
            "scope": self.scope,
            "classes": list(local.classes),
            "new": list(local.classes[local.known :]),
            "samples": {"train": len(local.train), "held_out": 0 if local.held_out is None else len(local.held_out)},
            "probe": {
                "learnt": self.probe_learnt,
                "measured": 0 if probe is None else len(probe),
            },
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
    known = knowledge(bundle, model.metadata, learn_probe=not options.keep_probe and options.replay != 0.0)
    sets = [known.measured] if local.held_out is None else [(HOLD_OUT, local.held_out), known.measured]
    began = time.monotonic()
    before = [score_before(model.content, samples, len(local.classes)) for _, samples in sets]
    closing = 2.0 * (time.monotonic() - began)
    scope, trained = _changed(model, bundle, local, known, options, partial(train, closing=closing))
    new = list(local.classes[local.known :])
    entry = {"data": local.name, "samples": len(local.train), "new": new, **asdict(options)}
    entry |= {"scope": scope, "steps": trained.steps}
    entry[PROBE] = bundle.probe.digest() if bundle.probe is not None and known.real else None
    content = rewritten(model, bundle, trained, local.classes, entry)
    after = Predictor.open(content)
    found = (compare(where, local.known, one, after, each) for (where, each), one in zip(sets, before, strict=True))
    return Adapted(content, scope, trained, local, known, tuple(found))


def _changed(
    model: Reopened,
    bundle: Bundle,
    local: Local,
    known: Knowledge,
    options: Adaptation,
    train: Callable[[Job], Trained],
) -> tuple[str, Trained]:
    """The scope that was taken, and the weights: solved, and trained from there on if that is wanted."""
    start = solve(model, local, known, options)
    scope = options.scope or ("head" if start is not None and options.steps is None else "full")
    if start is not None and scope == "head" and options.steps is None:
        return scope, Trained(model.recipe, start, np.zeros(0, np.float32), options.seed, 0)
    return scope, train(plan(model, bundle, local, known, replace(options, scope=scope), start or model.weights))


def _check(options: Adaptation) -> None:
    if options.scope not in (None, *SCOPES):
        raise UsageError("unknown scope", where="scope", found=options.scope, expected=" or ".join(SCOPES))
    if options.replay is not None and not 0.0 <= options.replay < 1.0:
        raise UsageError("not a share of a batch", where="replay", found=options.replay, expected="0 to less than 1")


def solve(model: Reopened, local: Local, known: Knowledge, options: Adaptation) -> Weights | None:
    """The model's weights with the last layer that fits all samples; None where the model has no linear last layer.

    Every sample counts in all of its views.
    """
    parts = [local.train] if options.replay == 0.0 else [local.train, known.counts, *known.real]
    images, targets = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "targets"))
    each = np.zeros(len(images))
    for group, share in mixed(local, known, options.replay):
        each[group] = share / len(group)
    seen = list(views(images, model.recipe.augmentation, options.mirror))
    return solved(
        model.content, model.weights, np.concatenate(seen), np.tile(targets, len(seen)), np.tile(each, len(seen))
    )


def plan(model: Reopened, bundle: Bundle, local: Local, known: Knowledge, options: Adaptation, weights: Weights) -> Job:
    """The training that adapts, from ``weights`` on: its samples and schedule."""
    groups, shares = zip(*mixed(local, known, options.replay), strict=True)
    parts = [max(round(PART * share), 1) for share in shares]
    return Job(
        model.recipe,
        joined(local, known, options.replay),
        options.scope or "full",
        options.seed,
        schedule(model.recipe, STEPS if options.steps is None else options.steps, options.rate, RATE),
        Initial(weights=weights),
        balanced(groups, parts),
        about={"bundle": bundle.digest, "model": hashlib.sha256(model.content).hexdigest(), "shares": parts},
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


def rewritten(
    model: Reopened, bundle: Bundle, trained: Trained, classes: Sequence[str], entry: Mapping[str, Any]
) -> bytes:
    """The model file with other weights and classes, and ``entry`` at the end of its history."""
    program = model.recipe.programs["predict"]
    kept = {key: model.metadata[key] for key in KEPT if key in model.metadata}
    metadata = kept | {
        exporting.CLASSES: json.dumps(list(classes), ensure_ascii=False),
        exporting.VERSION: __version__,
        ADAPTED: json.dumps([*history(model.metadata, model.where), dict(entry)], ensure_ascii=False),
    }
    used = len(classes) if bundle.manifest.spare_classes else None
    return exporting.complete_model(program, trained.weights, metadata, used)
