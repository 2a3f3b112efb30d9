"""Adapting a trained model to a shifted sensor, from images without labels.

Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021: the scales and offsets of the
normalisations are trained to make the model's predictions surer, and statistics that a batch normalisation keeps are
measured anew.  Differs: distilled images, which have labels, are replayed beside, so that the model cannot become sure
of a single class and the statistics are of both sensors; and the result is refused where the model gets worse on what
the bundle knows.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import UNLABELLED, Initial
from fieldkit.bundle.samples import Samples
from fieldkit.errors import DataError, UsageError
from fieldkit.field.adaptation.comparison import Comparison, compare, score_before
from fieldkit.field.adaptation.knowledge import knowledge
from fieldkit.field.adaptation.labelled import PART, Train, rewritten, schedule
from fieldkit.field.answers.reading import Reader, read_ahead
from fieldkit.field.endurance.mission import Job
from fieldkit.field.engine.replay import balanced
from fieldkit.field.engine.training import Trained, widened
from fieldkit.field.images.finding import find_images
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.models.reopening import Reopened
from fieldkit.tasks import classification

STEPS, RATE, REPLAY, TOLERANCE = 100, 0.3, 0.5, 0.02


@dataclass(frozen=True)
class UnlabelledAdaptation:
    """How to adapt without labels.

    steps, rate: None takes this module's; a rate of None is ``RATE`` times the recipe's highest.
    replay: share of each batch that is replayed, 0-1; also the share that the old images have in statistics of batches.
    tolerance: how much worse the model may get on what its bundle knows, in accuracy 0-1.
    """

    steps: int | None = None
    rate: float | None = None
    replay: float = REPLAY
    tolerance: float = TOLERANCE
    seed: int = 0


@dataclass(frozen=True)
class Sureness:
    """What a model says of the images without labels.

    entropy: of its predictions on average, in nats.  changed: share of the images that get another class afterwards.
    """

    images: int
    entropy_before: float
    entropy_after: float
    changed: float


@dataclass(frozen=True)
class Shifted:
    """What an adaptation without labels made; ``comparison`` is on what shows whether the model knows its bundle."""

    content: bytes
    trained: Trained
    comparison: Comparison
    sureness: Sureness

    def to_json(self) -> dict[str, Any]:
        return {"unlabelled": asdict(self.sureness), "comparisons": [self.comparison.to_json()]}


def read_unlabelled(predictor: Predictor, folder: Path) -> np.ndarray:
    """The images in a folder and its sub-folders, or in one file: native counts [n, c, h, w].

    Raises UsageError if there are none, DataError that lists those that the model cannot take.
    """
    images, faults = [], []
    remedies: dict[str | None, None] = {}
    for question in read_ahead(Reader(predictor), find_images([folder])):
        if question.image is None:
            faults.append(f"{question.file}: {question.fault}")
            remedies[question.remedy] = None
        else:
            images.append(question.image)
    if faults:
        raise DataError(folder, faults, remedy="; ".join(each for each in remedies if each))
    return np.stack(images)


def adapt_unlabelled(
    model: Reopened, bundle: Bundle, images: np.ndarray, options: UnlabelledAdaptation, train: Train, *, name: str = ""
) -> Shifted:
    """Make ``model`` surer of ``images``, native counts [n, c, h, w], while replaying what ``bundle`` distilled.

    name: of the images, for the model's history.  train: what runs the training.
    Raises UsageError for an option out of range, or a recipe without a program for this; DataError if the model gets
    worse than ``options.tolerance`` allows; what ``train`` raises.
    """
    if f"train/{UNLABELLED}" not in model.recipe.programs:
        raise UsageError(
            "the recipe has no train program for images without labels",
            where=f"recipe {model.recipe.name}",
            found=", ".join(sorted(model.recipe.state)),
            expected=UNLABELLED,
            remedy=f"build the bundle with fieldkit build --scope full --scope {UNLABELLED}",
        )
    where, known = knowledge(bundle, model.metadata).measured
    before, began = Predictor.open(model.content), time.monotonic()
    scores, first = score_before(model.content, known, len(model.classes)), before.predict(images)
    trained = train(plan(model, bundle, images, options), closing=2.0 * (time.monotonic() - began))
    entry = {"data": name, "samples": len(images), "scope": UNLABELLED, **asdict(options), "steps": trained.steps}
    content = rewritten(model, bundle, trained, model.classes, entry)
    after = Predictor.open(content)
    comparison = compare(where, len(model.classes), scores, after, known)
    if comparison.change < -options.tolerance:
        raise _refused(comparison, options.tolerance)
    return Shifted(content, trained, comparison, _sureness(first, after.predict(images)))


def plan(model: Reopened, bundle: Bundle, images: np.ndarray, options: UnlabelledAdaptation) -> Job:
    """The training: unlabelled images, whose labels are all 0, and replayed ones."""
    share = options.replay
    if not 0.0 <= share < 1.0:
        raise UsageError("not a share of a batch", where="replay", found=share, expected="0 to less than 1")
    replayed, count = bundle.training_set(), len(model.classes)
    targets, groups, shares = np.zeros((len(images), count), np.float32), [np.arange(len(images))], [1]
    samples = Samples(images.astype(np.float32), targets)
    if share:
        strongest = classification.group(replayed.targets.argmax(axis=1), count)
        theirs = [each + len(images) for each in strongest if len(each)]
        samples = Samples(
            np.concatenate([samples.images, replayed.images]),
            np.concatenate([targets, widened(replayed.targets, count)]),
        )
        groups += theirs
        each = max(round(PART * share / len(theirs)), 1)
        shares = [max(round(PART * (1.0 - share)), 1), *(each for _ in theirs)]
    about = {"bundle": bundle.digest, "model": hashlib.sha256(model.content).hexdigest(), "shares": shares}
    return Job(
        model.recipe,
        samples,
        UNLABELLED,
        options.seed,
        schedule(model.recipe, STEPS if options.steps is None else options.steps, options.rate, RATE),
        Initial(weights=model.weights),
        balanced(groups, shares),
        about=about,
    )


def _sureness(before: np.ndarray, after: np.ndarray) -> Sureness:
    first, second = (float(-(each * np.log(np.maximum(each, 1e-30))).sum(axis=1).mean()) for each in (before, after))
    changed = float((before.argmax(axis=1) != after.argmax(axis=1)).mean())
    return Sureness(len(before), first, second, changed)


def _refused(comparison: Comparison, tolerance: float) -> DataError:
    before, after = (100 * each.accuracy for each in (comparison.before, comparison.after))
    fault = (
        f"adapted to them, the model gets {after:.1f} % of the {comparison.where} right, down from {before:.1f} %: "
        f"more than {100 * tolerance:.1f} points; nothing was written"
    )
    remedy = "use fewer --steps, a lower --rate or more --replay, or allow more with --tolerance"
    return DataError("images without labels", [fault], remedy=remedy)
