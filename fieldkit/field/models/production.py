"""From a bundle to a model file: train, write, score on the probe; all that ``fieldkit train`` does."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fieldkit.bundle.atomic import check_writable
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import UNLABELLED, Recipe
from fieldkit.errors import UsageError
from fieldkit.field.endurance.checkpoint import state_folder
from fieldkit.field.endurance.mission import Conditions, Job, Mission
from fieldkit.field.endurance.monitor import Account
from fieldkit.field.engine.training import Progress, Trained, begin, choose_recipe, stretched
from fieldkit.field.models import exporting
from fieldkit.field.models.acceptance import Acceptance, accept
from fieldkit.field.models.confidence import calibrate
from fieldkit.field.trust.admission import Admitted


@dataclass(frozen=True)
class Order:
    """What to train.  recipe: None takes the bundle's first.  steps: None takes the recipe's own number.

    scope: which train program, "full" or another that the recipe has.
    """

    recipe: str | None = None
    seed: int = 0
    steps: int | None = None
    scope: str = "full"


@dataclass(frozen=True)
class Product:
    """A model that was written.

    size: bytes of the file.  accepted: its score on the probe, None where the bundle carries none.
    resumed: the step from which the training went on, None if it ran in one go.
    """

    trained: Trained
    size: int
    accepted: Acceptance | None
    account: Account
    resumed: int | None

    def to_json(self) -> dict[str, Any]:
        trained, account = self.trained, self.account.to_json()
        return {
            "recipe": trained.recipe.name,
            "seed": trained.seed,
            "steps": trained.steps,
            "resumed": self.resumed,
            "seconds": account.pop("seconds"),
            "loss": {"first": float(trained.losses[0]), "last": float(trained.losses[-1])},
            "probe": None if self.accepted is None else self.accepted.to_json(),
            "device": account,
        }


def train_model(
    source: Admitted | Bundle,
    target: str | Path,
    order: Order = Order(),
    conditions: Conditions = Conditions(),
    progress: Progress | None = None,
) -> Product:
    """Train a model from a bundle and write it to ``target`` as a plain ONNX file, whole or not at all.

    The training's state is kept beside ``target`` while it runs, so that the same call goes on after a loss of power.

    Raises UsageError for an order that the bundle cannot meet, or a place that cannot be written; Interrupted where the
    user stopped it; ResourceError where time, memory or disk do not suffice; Diverged.
    """
    if order.scope == UNLABELLED:
        raise UsageError(
            "a train program without labels adapts a model and makes none",
            where="scope",
            found=UNLABELLED,
            expected="full, or another that learns from labels",
            remedy="train with scope full, then: fieldkit adapt MODEL BUNDLE --unlabelled FOLDER",
        )
    bundle, sealer = (source.bundle, source.sealer) if isinstance(source, Admitted) else (source, None)
    target = check_writable(target)
    recipe = choose_recipe(bundle, order.recipe)
    schedule = recipe.schedule if order.steps is None else stretched(recipe.schedule, order.steps)
    job = Job(recipe, bundle.training_set(), order.scope, order.seed, schedule, about={"bundle": bundle.digest})
    with Mission(state_folder(target), replace(conditions, sealer=sealer)) as mission:
        closing = 0.0 if conditions.minutes is None else _closing(recipe, bundle, order, conditions.threads)
        trained = mission.train(job, progress, closing)
        model = calibrate(exporting.export(trained, bundle), bundle, conditions.threads)
        mission.write(target, model)
        mission.finish()
        accepted = accept(model, trained, bundle, conditions.threads, scope=order.scope)
        return Product(trained, len(model), accepted, mission.account(), mission.resumed)


def _closing(recipe: Recipe, bundle: Bundle, order: Order, threads: int | None) -> float:
    """Seconds that a trained model takes to be completed and scored: done once with the first weights."""
    began = time.monotonic()
    start = begin(recipe, order.scope, order.seed)
    weights = {each.name: start.tensors[f"param.{each.name}"] for each in recipe.parameters}
    trained = Trained(recipe, weights, start.tensors[f"param.{recipe.parameters[0].name}"], order.seed, 1)
    accept(calibrate(exporting.export(trained, bundle), bundle, threads), trained, bundle, threads)
    return time.monotonic() - began
