"""What ``fieldkit adapt`` costs and keeps: new classes arrive with a few samples each, with and without replay.

    fieldkit build DATA-OF-THE-FIRST-CLASSES -o bundle.h5 --spare-classes 3 ...
    python tools/bench_adapt.py bundle.h5 mstar.h5 --seeds 5

The data set's classes that the bundle does not know are the new ones.  For each seed a model is trained from the bundle
and adapted to ``--shots`` training samples of each new class, drawn by the seed.  Scores are of the test split; with
``--validate``, for choosing settings, of the other training samples of the new classes, and of those that the bundle's
build held out, in place of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import fieldkit
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.samples import Samples
from fieldkit.field.adaptation.labelled import Adaptation, adapt
from fieldkit.field.datasets import load_dataset
from fieldkit.field.endurance.mission import Conditions, Mission
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.models.reopening import Reopened, reopen
from fieldkit.hq.splitting import split
from fieldkit.tasks import classification

VARIANTS: dict[str, dict[str, Any]] = {
    "replay": {},
    "no replay": {"replay": 0.0},
    "no replay, all weights": {"replay": 0.0, "scope": "full"},
}


@dataclass(frozen=True)
class Score:
    """Shares of the old and of the new classes' samples that a model gets right, 0-1; seconds of the adaptation."""

    old: float
    new: float
    seconds: float


def main() -> None:
    settings = arguments()
    bundle, data = fieldkit.read_bundle(settings.bundle), load_dataset(settings.data)
    known = len(bundle.manifest.classes)
    if data.classes[:known] != bundle.manifest.classes or (data.test is None and not settings.validate):
        raise SystemExit("the bundle's classes must be the data set's first, and there must be a test split")
    found: dict[str, list[Score]] = {name: [] for name in ("before", *VARIANTS)}
    for seed in range(settings.seeds):
        chosen = shots(data.train.targets, known, settings.shots, seed)
        test = validation(bundle, data.train, chosen) if settings.validate else data.test
        assert test is not None
        few = replace(data, train=data.train.take(chosen), test=None)
        model = trained(bundle, seed, settings)
        found["before"].append(score(model.content, test, known, 0.0))
        for name, variant in VARIANTS.items():
            options = replace(
                Adaptation(
                    settings.scope, settings.steps, settings.rate, hold_out=0.0, mirror=settings.mirror, seed=seed
                ),
                **variant,
            )
            began = time.monotonic()
            with Mission(None, Conditions(threads=settings.threads)) as mission:
                made = adapt(model, bundle, few, options, mission.train)
            found[name].append(score(made.content, test, known, time.monotonic() - began))
        print(f"seed {seed}: " + "; ".join(f"{name}: {shown(each[-1:])}" for name, each in found.items()), flush=True)
    print(f"\n{settings.seeds} seeds, {settings.shots} samples of each of {len(data.classes) - known} new classes")
    for name, scores in found.items():
        print(f"{name:22s} {shown(scores)}")
        if name != "before":
            lost = [100 * (one.old - other.old) for one, other in zip(found["before"], scores, strict=True)]
            print(f"{'':22s} old classes lose {spread(lost)} points")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="what fieldkit adapt costs and keeps")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scope", default=Adaptation.scope)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--replay", type=float, help="share of what is learnt that is replayed")
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--validate", action="store_true", help="score on training samples, to choose settings by")
    parser.add_argument("--models", type=Path, help="folder that keeps the trained models for the next run")
    return parser.parse_args()


def shots(targets: np.ndarray, known: int, count: int, seed: int) -> np.ndarray:
    """Positions of ``count`` samples of each class from ``known`` on, int64."""
    rng = np.random.default_rng([seed, 2])
    groups = classification.group(targets, int(targets.max()) + 1)[known:]
    return np.concatenate([rng.permutation(group)[:count] for group in groups])


def validation(bundle: Bundle, train: Samples, chosen: np.ndarray) -> Samples:
    """Training samples that neither the distillation nor the adaptation saw."""
    known, probe = len(bundle.manifest.classes), 0 if bundle.probe is None else len(bundle.probe)
    old = train.take(np.flatnonzero(train.targets < known))
    held_out = split(old, known, probe, int(bundle.manifest.provenance["seed"])).held_out
    rest = train.take(np.setdiff1d(np.flatnonzero(train.targets >= known), chosen))
    images = np.concatenate([held_out.images[:], rest.images])
    return Samples(images, np.concatenate([held_out.targets, rest.targets]))


def trained(bundle: Bundle, seed: int, settings: argparse.Namespace) -> Reopened:
    """A model of the bundle's first recipe, from the folder of models if it is there."""
    path = None if settings.models is None else settings.models / f"{bundle.digest[:16]}-{seed}.onnx"
    if path is not None and path.exists():
        return reopen(path, bundle)
    content = fieldkit.export(fieldkit.train(bundle, seed=seed, threads=settings.threads), bundle)
    if path is not None:
        settings.models.mkdir(exist_ok=True)
        path.write_bytes(content)
    return reopen(content, bundle)


def score(model: bytes, test: Samples, known: int, seconds: float) -> Score:
    guesses, old = Predictor.open(model).predict(test.images[:]).argmax(axis=1), test.targets < known
    right = guesses == test.targets
    return Score(float(right[old].mean()), float(right[~old].mean()), seconds)


def shown(scores: Sequence[Score]) -> str:
    old, new = (spread([100 * getattr(each, part) for each in scores]) for part in ("old", "new"))
    return f"old {old} %, new {new} %, {spread([each.seconds for each in scores])} s"


def spread(values: Sequence[float]) -> str:
    """Mean, and standard deviation where there are several."""
    deviation = f" +- {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"


if __name__ == "__main__":
    main()
