"""Which recipe of a bundle this device should run: each is tried, trained, scored on the probe, and ranked.

What a model takes is measured first, since that does not depend on its weights; who breaks a limit is not trained.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.manifest import Expectation
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.weights import initial_weights
from fieldkit.errors import Diverged, IncompatibleBundle, ResourceError
from fieldkit.field.compression.calibration import sensor_images
from fieldkit.field.endurance.rehearsal import Scene, rehearse
from fieldkit.field.engine.training import Trained
from fieldkit.field.measurement.ranking import Cost, Limits, standard_error
from fieldkit.field.measurement.trial import cost
from fieldkit.field.models import exporting
from fieldkit.field.models.confidence import calibrate
from fieldkit.field.selection.candidates import Candidate, none_fits, ranked
from fieldkit.field.selection.contest import Contest, Plan, Report, fitting
from fieldkit.field.selection.elimination import Halved, OutOfTimeError, halve, rungs

SEEDS = 3
TURNS, TRIAL_SECONDS = 3, 1.0
"""How often, and how long in all, each model is tried."""
NO_LIMITS = Limits()
PROBE, HELD_OUT = "probe", "held-out"
WRITING = 0.05
"""Share of the time that is kept for what comes after the trainings."""


@dataclass(frozen=True)
class Choice:
    """What to select by.

    limits: what the model may take.  seconds: how long the whole may last; None lets every training end.
    seeds: trainings of each recipe, from seed 0 on.  eliminate: whether weak recipes are given up early.
    """

    limits: Limits = NO_LIMITS
    seconds: float | None = None
    seeds: int = SEEDS
    eliminate: bool = True
    threads: int | None = None


@dataclass(frozen=True)
class Selection:
    """The recipes, best first, and the model of the first.

    source: what the accuracies are of: the probe, or, where there is none, what HQ measured on images held out.
    samples: how many images.  error: the standard error of the best accuracy; who is within it is as good.
    tied: the recipes that are as good as the best; the quickest of them won.
    model: the winner's ONNX file: that of seed 0.  trained: its training.
    notes: what a reader should know of how this came about.
    """

    candidates: tuple[Candidate, ...]
    source: str
    samples: int
    error: float
    tied: tuple[str, ...]
    model: bytes
    trained: Trained
    notes: tuple[str, ...]
    seconds: float

    @property
    def winner(self) -> Candidate:
        return self.candidates[0]

    def to_json(self) -> dict[str, Any]:
        """All but the model."""
        return {
            "winner": self.winner.recipe,
            "seed": self.trained.seed,
            "steps": self.trained.steps,
            "accuracy_of": self.source,
            "images": self.samples,
            "standard_error": self.error,
            "tied": list(self.tied),
            "candidates": [each.to_json() for each in self.candidates],
            "notes": list(self.notes),
            "seconds": round(self.seconds, 3),
        }


def select(
    bundle: Bundle, choice: Choice = Choice(), report: Report = lambda phase, note, done, total: None
) -> Selection:
    """Try every recipe of ``bundle`` on this device, train those within the limits, and rank them.

    With a probe the recipes are compared by successive halving and scored on it.  Without one, the accuracies are those
    that HQ measured on images held out, and only the winner is trained.
    Raises ResourceError if no recipe keeps the limits or nothing could be trained in time, IncompatibleBundle for a
    bundle with neither a probe nor HQ's measurements, Diverged if every training does.
    """
    began = time.monotonic()
    names = list(bundle.manifest.recipes)
    measured = {name: bundle.manifest.expectations.get(name, {}).get(HELD_OUT) for name in names}
    if bundle.probe is None and not any(measured.values()):
        raise IncompatibleBundle(
            "nothing to compare recipes by",
            where=bundle.manifest.name,
            found="neither a probe nor accuracies that HQ measured",
            expected="one of the two",
            remedy="build the bundle with --probe",
        )
    image = sensor_images(bundle)[0]
    costs = _tried({name: _untrained(bundle, bundle.recipes[name]) for name in names}, image, choice.threads, report)
    candidates = [
        Candidate(name, costs[name], bundle.recipes[name].schedule.steps, excess=choice.limits.excess(costs[name]))
        for name in names
    ]
    fit = [each for each in candidates if not each.excess]
    if not fit:
        raise none_fits(candidates)
    left = None if choice.seconds is None else choice.seconds * (1.0 - WRITING) - (time.monotonic() - began)
    if bundle.probe is None:
        known = {name: each for name, each in measured.items() if each is not None}
        found = _by_expectation(bundle, candidates, known, choice, left, report)
    else:
        found = _by_probe(bundle, candidates, choice, left, report)
    return replace(found, seconds=time.monotonic() - began)


def _untrained(bundle: Bundle, recipe: Recipe) -> bytes:
    """A model as large and as quick as it will be once it is trained."""
    weights = initial_weights(recipe.parameters, recipe.initial, 0)
    return exporting.export(Trained(recipe, weights, np.zeros(0, np.float32), 0, recipe.schedule.steps), bundle)


def _tried(models: Mapping[str, bytes], image: np.ndarray, threads: int | None, report: Report) -> dict[str, Cost]:
    """What each model takes.  They take turns, and the least disturbed turn of each counts."""
    turns: dict[str, list[Cost]] = {name: [] for name in models}
    for turn in range(TURNS):
        for place, (name, model) in enumerate(models.items()):
            report("trying", name, turn * len(models) + place, TURNS * len(models))
            turns[name].append(cost(model, image, threads, TRIAL_SECONDS / TURNS))
    return {
        name: Cost(
            size=len(models[name]),
            latency=min(each.latency for each in costs),
            rate=max(each.rate for each in costs),
            memory=min(each.memory for each in costs),
        )
        for name, costs in turns.items()
    }


def _by_probe(
    bundle: Bundle, candidates: Sequence[Candidate], choice: Choice, left: float | None, report: Report
) -> Selection:
    """Train those within the limits, and rank by what they score on the probe."""
    assert bundle.probe is not None
    samples = len(bundle.probe)
    names = [each.recipe for each in candidates if not each.excess]
    shares = rungs(len(names)) if choice.eliminate else (1.0,)
    contest = _contest(bundle, names, Plan(shares, choice.seeds), choice, left, report)
    halved = halve(names, shares, contest.train, lambda accuracy: standard_error(accuracy, samples))
    done = [_with_score(each, halved, contest.plan) for each in candidates]
    if not contest.entries:
        raise _nothing_trained(halved, names)
    places, error, tied = ranked(done, samples)
    model, trained = contest.entries[places[0].recipe]
    model = calibrate(model, bundle, choice.threads)
    return Selection(
        candidates=tuple(places),
        source=PROBE,
        samples=samples,
        error=error,
        tied=tied,
        model=model,
        trained=trained,
        notes=tuple(_plan_notes(contest.plan, choice, done)),
        seconds=0.0,
    )


def _contest(
    bundle: Bundle, names: Sequence[str], plan: Plan, choice: Choice, left: float | None, report: Report
) -> Contest:
    """The trainings of these recipes, cut so that they end within ``left`` seconds."""
    began = time.monotonic()
    recipes = [bundle.recipes[name] for name in names]
    if left is not None:
        if left <= 0.0:
            raise _out_of_time()
        seconds = {recipe.name: rehearse(Scene(recipe, threads=choice.threads)).step for recipe in recipes}
        plan = fitting(plan, recipes, seconds, left - (time.monotonic() - began))
    deadline = None if left is None else began + left
    return Contest(bundle, plan, deadline, choice.threads, report, round(plan.total(recipes)))


def _with_score(candidate: Candidate, halved: Halved, plan: Plan) -> Candidate:
    """The candidate with what its trainings came to."""
    if candidate.excess:
        return replace(candidate, state="excluded")
    reached = halved.reached.get(candidate.recipe)
    if reached is None:
        return replace(candidate, state="unfinished")
    if reached.score is None:
        return replace(candidate, state="diverged")
    accuracies = reached.score.accuracies
    # Whoever was let into the last rung that was begun, and did not come to it, lacked time and nothing else.
    short = "unfinished" if candidate.recipe in halved.alive else "stopped"
    return replace(
        candidate,
        accuracy=reached.score.mean,
        spread=statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        seeds=len(accuracies),
        steps=reached.score.steps,
        share=reached.share,
        state="trained" if reached.share == plan.shares[-1] else short,
    )


def _by_expectation(
    bundle: Bundle,
    candidates: Sequence[Candidate],
    known: Mapping[str, Expectation],
    choice: Choice,
    left: float | None,
    report: Report,
) -> Selection:
    """Rank by what HQ measured, and train the winner alone."""
    done = [_with_expectation(each, known.get(each.recipe)) for each in candidates]
    if all(each.accuracy is None for each in done):
        raise IncompatibleBundle(
            "nothing to compare the recipes by that keep the limits",
            where=bundle.manifest.name,
            found=f"no accuracy that HQ measured of {', '.join(each.recipe for each in done if not each.excess)}",
            remedy="build the bundle with --probe",
        )
    samples = max(each.samples for each in known.values())
    places, error, tied = ranked(done, samples)
    recipe = bundle.recipes[places[0].recipe]
    contest = _contest(bundle, [recipe.name], Plan((1.0,), 1), choice, left, report)
    try:
        model, trained = contest.fit(recipe, contest.plan.steps(recipe, 1.0))
    except OutOfTimeError as error_:
        raise _out_of_time() from error_
    note = "the bundle carries no probe: accuracies are HQ's, of whole trainings and images held out there; "
    note += f"only {recipe.name} was trained here, and not scored"
    notes = (note, *_plan_notes(contest.plan, replace(choice, seeds=1), done))
    return Selection(tuple(places), HELD_OUT, samples, error, tied, model, trained, notes, 0.0)


def _with_expectation(candidate: Candidate, expected: Expectation | None) -> Candidate:
    """The candidate with what HQ measured of it."""
    if candidate.excess:
        return replace(candidate, state="excluded")
    if expected is None:
        return replace(candidate, state="unmeasured")
    return replace(
        candidate,
        accuracy=expected.mean,
        spread=expected.std,
        seeds=expected.seeds,
        steps=candidate.full,
        share=1.0,
        state="expected",
    )


def _plan_notes(plan: Plan, choice: Choice, done: Iterable[Candidate]) -> Iterable[str]:
    """What time did not allow."""
    if plan.scale < 1.0:
        yield f"to end in time, every training is cut to {plan.scale:.0%} of its steps, with one seed"
    elif plan.seeds < choice.seeds:
        yield f"to end in time, each recipe is trained with {plan.seeds} of {choice.seeds} seeds"
    if any(each.state == "unfinished" for each in done):
        yield "time ended before every recipe was trained to its end"


def _nothing_trained(halved: Halved, names: Sequence[str]) -> Diverged | ResourceError:
    if not halved.reached:
        return _out_of_time()
    return Diverged(
        "every training diverged",
        found=", ".join(names),
        expected="one whose loss stays finite",
        remedy="build the bundle again with a smaller learning rate",
    )


def _out_of_time() -> ResourceError:
    return ResourceError("time ended before any recipe was trained", where="minutes", remedy="allow more --minutes")
