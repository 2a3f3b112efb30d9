"""What HQ measured of a bundle: expectations for its manifest, and its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.enlarging import enlarge
from fieldkit.bundle.manifest import Expectation
from fieldkit.bundle.samples import Samples
from fieldkit.errors import Diverged
from fieldkit.hq.compiler import Compiled
from fieldkit.hq.compiler.updates import Update
from fieldkit.hq.distil.driver import Outcome
from fieldkit.hq.distil.problem import Problem, Snapshot
from fieldkit.hq.evidence.accuracy import FieldScores, expectation
from fieldkit.hq.evidence.reference import Reference
from fieldkit.hq.spec import Spec
from fieldkit.hq.splitting import Splits

# Seeds of the trainings that are reported; those that select are others.
REPORT_SEEDS = (0, 1, 2, 3, 4)
# How far, in accuracy 0-1, the field engine's score may be from torch's before the build says so.
AGREEMENT = 0.005


def measured(bundle: Bundle, splits: Splits, scores: FieldScores) -> Bundle:
    """The bundle with what HQ expects of each recipe, on the held-out split and on the probe."""
    sets = {"held-out": splits.held_out} | ({"probe": splits.probe} if splits.probe is not None else {})
    expectations: dict[str, dict[str, Expectation]] = {}
    for name in bundle.recipes:
        found = _reported(bundle, name, scores, list(sets.values()))
        expectations[name] = {
            split_name: expectation(accuracies, len(samples))
            for (split_name, samples), accuracies in zip(sets.items(), found, strict=True)
        }
    return replace(bundle, manifest=replace(bundle.manifest, expectations=expectations))


def _reported(bundle: Bundle, name: str, scores: FieldScores, sets: Sequence[Samples]) -> list[list[float]]:
    try:
        return scores.accuracies(bundle, name, REPORT_SEEDS, sets)
    except Diverged as error:
        raise Diverged(
            "a device's training on the best set diverges, so no bundle is written",
            where=error.where,
            found=error.found,
            expected=f"{len(REPORT_SEEDS)} trainings that end",
            remedy="build with a smaller rate (--schedule), fewer --steps or another --optimiser",
        ) from error


def unrounded(spec: Spec, bundle: Bundle, problem: Problem, best: Snapshot, held_out: Samples) -> list[float]:
    """The accuracies (0-1) on the held-out split that torch's own training of the first recipe gives on a snapshot."""
    recipe, radiometry = next(iter(bundle.recipes.values())), bundle.manifest.radiometry
    reference = Reference(recipe, problem.module, radiometry, Update(spec.optimiser, spec.regularisation))
    images = enlarge(best.images, *bundle.manifest.input_shape[1:])
    return reference.accuracies(Samples(images, best.labels), REPORT_SEEDS, held_out)


def note_disagreement(held_out: Mapping[str, float], note: Callable[[str], None]) -> None:
    """Say so where rounding and the device's arithmetic cost or gain more than they should."""
    field_engine, unrounded = held_out["field_engine"], held_out["torch_unrounded"]
    if abs(field_engine - unrounded) > AGREEMENT:
        note(
            f"held-out accuracy is {100 * field_engine:.1f} % through the field engine, {100 * unrounded:.1f} % in "
            f"torch without rounding: more than {100 * AGREEMENT:.1f} points apart"
        )


def evidence(
    recipes: Mapping[str, Compiled],
    outcome: Outcome,
    field_engine: Expectation,
    reference: Sequence[float],
    machine: str | None = None,
) -> dict[str, Any]:
    """The card: parity of the programs, the course of the distillation, torch's scores beside the field engine's.

    machine: of what kind it is that distilled.  It and the time are told only of a build whose bytes depend on time
    anyway; None keeps the card of a repeatable build repeatable.
    """
    took = {} if machine is None else {"seconds": round(outcome.seconds, 1), "hardware": machine}
    return {
        "parity": {name: each.parity.to_json() for name, each in recipes.items()},
        "distillation": {
            "iterations": outcome.iterations,
            **took,
            "held_out_curve": [[iteration, score] for iteration, score in outcome.curve],
        },
        "held_out": {"field_engine": field_engine.mean, "torch_unrounded": float(np.mean(reference))},
    }
