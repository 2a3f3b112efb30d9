"""A trained model's weights, read back from its file, so that a training can go on from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import Recipe
from fieldkit.errors import IncompatibleBundle, ProgramError
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor, read_model
from fieldkit.field.programs.initializers import read_initializers

TRAIN = "train it again from this bundle: fieldkit train BUNDLE -o MODEL"


@dataclass(frozen=True)
class Reopened:
    """A model file beside the recipe that made it.

    content: the file's bytes.  classes: names of those in use; the first are the bundle's.
    weights: float32 by parameter name, spare classes included.
    metadata: what the file says about itself.  where: its name, for messages.
    """

    content: bytes
    recipe: Recipe
    classes: tuple[str, ...]
    weights: Mapping[str, np.ndarray]
    metadata: Mapping[str, str]
    where: str


def reopen(model: str | Path | bytes, bundle: Bundle, *, other_bundle: bool = False) -> Reopened:
    """The model in a file, or a model's bytes, with the weights that a training of ``bundle`` can go on from.

    other_bundle: take a model that came from another bundle, as long as its recipe fits.
    Raises UsageError where there is no such file, ProgramError for one that fieldkit train or adapt did not write,
    IncompatibleBundle for a model of another bundle.
    """
    where = "model" if isinstance(model, bytes) else str(model)
    content = model if isinstance(model, bytes) else read_model(Path(model))
    predictor = Predictor.open(content, where=where)
    metadata = predictor.metadata
    found, own = metadata.get(exporting.BUNDLE, ""), bundle.digest
    if found != own and not other_bundle:
        raise IncompatibleBundle(
            "the model comes from another bundle",
            where=where,
            found=f"bundle {found[:16] or 'unknown'}",
            expected=f"{own[:16]}, which is {bundle.manifest.name}",
            remedy=f"{TRAIN}; or, if the bundles share the recipe, say --other-bundle",
        )
    recipe = bundle.recipes.get(metadata.get(exporting.RECIPE, ""))
    if recipe is None:
        raise IncompatibleBundle(
            "the bundle has no such recipe",
            where=where,
            found=f"recipe {metadata.get(exporting.RECIPE, '')!r}",
            expected=" or ".join(bundle.manifest.recipes),
            remedy=TRAIN,
        )
    _check_classes(predictor.classes, bundle, where)
    return Reopened(content, recipe, predictor.classes, _weights(content, recipe, where), metadata, where)


def _check_classes(classes: tuple[str, ...], bundle: Bundle, where: str) -> None:
    own, spare = bundle.manifest.classes, bundle.manifest.spare_classes
    if classes[: len(own)] != own or len(classes) > len(own) + spare:
        raise IncompatibleBundle(
            "the model knows other classes than the bundle",
            where=where,
            found=json.dumps(classes, ensure_ascii=False),
            expected=f"{json.dumps(own, ensure_ascii=False)} and up to {spare} more",
            remedy=TRAIN,
        )


def _weights(content: bytes, recipe: Recipe, where: str) -> dict[str, np.ndarray]:
    """Every parameter of the recipe, as the model holds it."""
    held = read_initializers(content, where)
    found = {each.name: held.get(f"param.{each.name}") for each in recipe.parameters}
    odd = [
        each.name
        for each in recipe.parameters
        if (values := found[each.name]) is None or values.shape != each.shape or values.dtype != np.float32
    ]
    if odd:
        raise ProgramError(
            "the model does not hold the recipe's weights",
            where=where,
            found=f"no float32 of the recipe's shape for {', '.join(odd[:5])}",
            expected="a model that fieldkit train or adapt wrote, before fieldkit export",
            remedy="adapt the model that fieldkit train wrote, and export the result",
        )
    return {name: values for name, values in found.items() if values is not None}
