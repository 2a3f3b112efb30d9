"""Accuracy of bundles on test data: trained through the field engine, scored by running the written models.

    python tools/bench_accuracy.py bundles/mnist-*.h5 [--data ../shared/data/mnist.h5] [--seeds 5] [--random]

Prints a Markdown table.  The test set is read once, here, and nothing is chosen by it.  With --random, each recipe is
also trained, with its own schedule, on as many real images with hard labels, drawn anew for each seed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from fieldkit import __version__
from fieldkit.bundle import read_bundle
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.samples import Samples
from fieldkit.field.datasets import Dataset, load_dataset
from fieldkit.field.exporting import export
from fieldkit.field.prediction import Predictor
from fieldkit.field.session import runtime_version
from fieldkit.field.training import Trained, Trainer
from fieldkit.tasks import classification

DATA = Path(os.environ.get("FIELDKIT_DATA", "../shared/data")) / "mnist.h5"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--random", action="store_true", help="also the floor: real images drawn at random")
    settings = parser.parse_args()
    dataset = load_dataset(settings.data)
    print(f"fieldkit {__version__}, onnxruntime {runtime_version()}, Python {platform.python_version()}; ", end="")
    print(f"{len(tests(dataset))} test images of {dataset.name}, n = {settings.seeds} trainings (seeds 0 to n - 1)\n")
    print("| bundle | images | file bytes | init | steps | trained on | test accuracy, mean +- std | range | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for path in settings.bundles:
        bundle = read_bundle(path)
        sources = {"distilled": [bundle.training_set()] * settings.seeds}
        if settings.random:
            count = len(bundle.images) // len(dataset.classes)
            sources["real, random"] = [drawn(dataset, count, seed) for seed in range(settings.seeds)]
        for name, sets in sources.items():
            print(row(path, bundle, name, sets, tests(dataset), settings.threads), flush=True)


def tests(dataset: Dataset) -> Samples:
    """The test split, without which there is nothing to report."""
    if dataset.test is None:
        raise SystemExit(f"{dataset.name} has no test split")
    return dataset.test


def drawn(dataset: Dataset, count: int, seed: int) -> Samples:
    """``count`` real training images of each class, as float32 with hard labels."""
    rng = np.random.default_rng(seed)
    groups = classification.group(dataset.train.targets, len(dataset.classes))
    positions = np.concatenate([rng.choice(group, count, replace=False) for group in groups])
    chosen = dataset.train.take(positions)
    return Samples(chosen.images.astype(np.float32), np.eye(len(dataset.classes), dtype=np.float32)[chosen.targets])


def row(path: Path, bundle: Bundle, name: str, sets: list[Samples], test: Samples, threads: int | None) -> str:
    """One line of the table: a training per set, its seed being the set's place."""
    recipe = bundle.recipes[bundle.manifest.recipes[0]]
    trainer = Trainer(recipe, threads=threads)
    scores, seconds = [], []
    for seed, samples in enumerate(sets):
        began = time.monotonic()
        trained = trainer.fit(samples, seed=seed)
        seconds.append(time.monotonic() - began)
        scores.append(100 * score(trained, bundle, test, threads))
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    init = "fixed" if recipe.initial.fixed else "random"
    return (
        f"| {path.name} | {len(sets[0])} | {path.stat().st_size} | {init} | {recipe.schedule.steps} | {name} | "
        f"{statistics.fmean(scores):.2f} +- {spread:.2f} | {min(scores):.2f}-{max(scores):.2f} | "
        f"{statistics.median(seconds):.1f} |"
    )


def score(trained: Trained, bundle: Bundle, test: Samples, threads: int | None) -> float:
    """Accuracy of the written model, 0-1."""
    model = Predictor.open(export(trained, bundle), threads)
    return classification.score(model.predict(test.images), test.targets).accuracy


if __name__ == "__main__":
    main()
