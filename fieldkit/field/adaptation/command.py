"""The files of an adaptation: a model and its bundle are read, the adapted model is written, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fieldkit.bundle.atomic import check_apart, check_writable
from fieldkit.errors import UsageError
from fieldkit.field.adaptation.labelled import Adaptation, Adapted, adapt
from fieldkit.field.adaptation.unlabelled import Shifted, UnlabelledAdaptation, adapt_unlabelled, read_unlabelled
from fieldkit.field.datasets import load_dataset
from fieldkit.field.endurance.checkpoint import state_folder
from fieldkit.field.endurance.mission import Conditions, Job, Mission
from fieldkit.field.endurance.monitor import Account
from fieldkit.field.engine.training import Progress, Trained
from fieldkit.field.models import confidence
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.models.reopening import reopen
from fieldkit.field.trust.admission import open_bundle


@dataclass(frozen=True)
class AdaptRequest:
    """Which files to adapt from, and to.

    data: labelled samples, as ``load_dataset`` takes them; unlabelled: a folder of images.  One of the two.
    other_bundle: take a model that came from another bundle with the same recipe.
    opening: how the bundle is opened, as ``admission.open_bundle`` takes it.
    """

    model: Path
    bundle: Path
    output: Path
    data: Path | None = None
    unlabelled: Path | None = None
    other_bundle: bool = False
    opening: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What was written, its bytes, and what it took.

    resumed: the step at which a training went on that had been cut; None if it began anew.
    """

    made: Adapted | Shifted
    size: int
    account: Account
    resumed: int | None

    def to_json(self) -> dict[str, Any]:
        trained, account = self.made.trained, self.account.to_json()
        return {
            "bytes": self.size,
            "recipe": trained.recipe.name,
            "seed": trained.seed,
            "steps": trained.steps,
            "resumed": self.resumed,
            "seconds": account.pop("seconds"),
            "loss": {"first": float(trained.losses[0]), "last": float(trained.losses[-1])} if trained.steps else None,
            **self.made.to_json(),
            "device": account,
        }


def adapt_file(
    request: AdaptRequest,
    options: Adaptation | UnlabelledAdaptation,
    conditions: Conditions,
    progress: Progress | None = None,
) -> Outcome:
    """Write the model that ``request`` asks for; ``options`` are those of the kind of samples that it names.

    The same call after a loss of power goes on where the training was.  How far the new model's probabilities can be
    believed is measured on what it has not learnt from of the bundle's probe.
    Raises UsageError where the request does not fit, and what ``labelled.adapt`` and ``unlabelled.adapt_unlabelled``
    raise.
    """
    _check(request, options, conditions.log)
    admitted = open_bundle(request.bundle, **request.opening)
    bundle = admitted.bundle
    model = reopen(request.model, bundle, other_bundle=request.other_bundle)
    with Mission(state_folder(request.output), replace(conditions, sealer=admitted.sealer)) as mission:

        def train(job: Job, *, closing: float) -> Trained:
            return mission.train(job, progress, closing)

        if isinstance(options, Adaptation):
            data = load_dataset(_named(request.data), for_training=False)
            made: Adapted | Shifted = adapt(model, bundle, data, options, train)
        else:
            place = _named(request.unlabelled)
            images = read_unlabelled(Predictor.open(model.content), place)
            made = adapt_unlabelled(model, bundle, images, options, train, name=place.name)
        made = replace(made, content=confidence.calibrate(made.content, bundle, conditions.threads))
        mission.write(request.output, made.content)
        mission.finish()
        return Outcome(made, len(made.content), mission.account(), mission.resumed)


def _check(request: AdaptRequest, options: Adaptation | UnlabelledAdaptation, log: Path | None) -> None:
    """Raise UsageError for what cannot be right, before anything is done."""
    wanted = request.data if isinstance(options, Adaptation) else request.unlabelled
    if (request.data is None) == (request.unlabelled is None) or wanted is None:
        raise UsageError(
            "nothing to adapt to" if request.data is None else "two things to adapt to",
            where=request.model,
            expected="samples with labels, or images without them",
            remedy="name --data or --unlabelled",
        )
    check_writable(request.output)
    read = {"model": request.model, "bundle": request.bundle, "data": request.data, "images": request.unlabelled}
    check_apart({"adapted model": request.output, "log": log}, read)


def _named(place: Path | None) -> Path:
    assert place is not None
    return place
