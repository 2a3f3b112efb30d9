"""Accuracy of bundles on test data, beside its floors, the whole set and what papers report.

    python tools/bench_accuracy.py BUNDLE... [--data FILE] [--seeds 5] [--floors random herding kcenter] [--whole]

Data sets are found in FIELDKIT_DATA by the name that a bundle's manifest gives, or named with --data.  The test set is
read once, here, and nothing is chosen by it.  Prints a Markdown table; every row of a bundle trains its first recipe
through the field engine from a written bundle, and scores the written model:

* the distilled set;
* floors: real training images, drawn at random (anew for each seed), by herding and by greedy k-centre on the features
  of a network trained on all of them: as many per class as the set has, and as many as fit into the same bytes of
  file.  Their labels are of the bundle's kind: hard, or soft ones of a network trained on all training images;
* with --whole, nine tenths of the training images with hard labels, by the recipe's optimiser, batch and augmentation.
  A cosine falls from the best of three rates; 5, 10, 20, ... epochs are tried until twice as many gain less than 0.2
  points.  Both are judged on the last tenth, and the row says what was chosen.

"published" stands beside the row that a paper's own table compares with, at the same images per class; those networks
are ConvNets of width 128 trained for up to 1,000 epochs, so compare with care.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zopfli.zlib
from published import DISTILLED, PAPERS, WHOLE, published

from fieldkit import __version__
from fieldkit.bundle import read_bundle, write_bundle
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.recipe import Recipe, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.errors import Diverged
from fieldkit.field.engine.heap import keep_memory
from fieldkit.field.engine.session import runtime_version
from fieldkit.field.engine.training import Trainer
from fieldkit.field.models.exporting import export
from fieldkit.field.models.prediction import Predictor
from fieldkit.hq.distil import start
from fieldkit.hq.distil.experts import Lessons
from fieldkit.hq.distil.problem import Problem
from fieldkit.hq.distil.teachers import Teachers
from fieldkit.hq.evidence.accuracy import FieldScores
from fieldkit.hq.models import OWN, build_model
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.sources import SOURCES, Dataset, load
from fieldkit.hq.splitting import Splits, split
from fieldkit.tasks import classification

DATA = Path(os.environ.get("FIELDKIT_DATA", "../shared/data"))
FLOORS = ("random", "herding", "kcenter")
# Augmented copies of an image over which a soft label is averaged.
VIEWS = 8
LESSONS = Lessons(epochs=10)
# The whole set's training: shares of the recipe's highest rate that are tried, epochs, and the accuracy that twice as
# many must gain.
RATES = (1.0, 0.25, 0.0625)
FIRST_EPOCHS, MOST_EPOCHS, GAIN = 5, 80, 0.002

COLUMNS = (
    "bundle", "trained on", "per class", "labels", "file bytes", "init", "steps", "test accuracy, mean +- std", "range",
    "n", "seconds, scoring too", "published", "distilled in",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table; scores in 0-1, one per training."""

    name: str
    per_class: int
    labels: str
    size: int | None
    steps: int
    scores: Sequence[float]
    seconds: float


@dataclass(frozen=True)
class Taught:
    """A training on the whole set: held_out is its accuracy in 0-1, -1 if it diverged and there is no model."""

    schedule: Schedule
    held_out: float
    predictor: Predictor | None


class Subject:
    """One bundle and its data: what trains on what, and how well."""

    def __init__(self, path: Path, dataset: Dataset, threads: int | None, cache: Path) -> None:
        if dataset.test is None:
            raise SystemExit(f"{dataset.name} has no test split")
        self.path = path
        self.bundle = read_bundle(path)
        self.dataset = dataset
        self.test: Samples = dataset.test
        self.threads = threads
        self.cache = cache
        self.scores = FieldScores(threads)
        self.class_count = len(dataset.classes)
        if dataset.classes != self.bundle.manifest.classes:
            raise SystemExit(f"{path} is of other classes than {dataset.name}")

    @property
    def recipe(self) -> Recipe:
        """The first recipe, which the set was distilled for."""
        return self.bundle.recipes[self.bundle.manifest.recipes[0]]

    @property
    def per_class(self) -> int:
        return len(self.bundle.images) // self.class_count

    @cached_property
    def soft(self) -> bool:
        """Whether any label of the distilled set says more than one class."""
        return bool((np.asarray(self.bundle.labels, np.float32).max(axis=1) < 1.0).any())

    @property
    def ipc(self) -> int:
        """Images per class in the storage of whole ones, by which papers compare."""
        return int(self.bundle.manifest.method.get("ipc", self.per_class))

    @cached_property
    def problem(self) -> Problem:
        """All training images, and the recipe that the set is distilled for."""
        options, manifest = dict(self.recipe.architecture), self.bundle.manifest
        name = options.pop("name")
        if name == OWN:
            name, options = options["factory"], options["options"]
        module = build_model(name, options, manifest.input_shape, self.class_count)
        return Problem(
            real=self.dataset.train,
            module=module,
            normalise=Normalise(manifest.radiometry),
            ipc=self.per_class,
            class_count=self.class_count,
            schedule=self.recipe.schedule,
            augmentation=self.recipe.augmentation,
            cache=self.cache,
        )

    @cached_property
    def teachers(self) -> Teachers:
        return Teachers.trained(self.problem, 1, LESSONS)

    def rows(self, seeds: Sequence[int], floors: Sequence[str], whole: bool) -> Iterator[Row]:
        """Every line about this bundle."""
        yield self.measured(DISTILLED, [self.bundle] * len(seeds), seeds)
        for name in floors:
            yield from self.floor(name, seeds)
        if whole:
            yield self.whole(seeds[0])

    def floor(self, name: str, seeds: Sequence[int]) -> Iterator[Row]:
        """Real images in the distilled ones' place: as many, and as many as fit into the file."""
        chosen = self.orders(name, seeds)
        equal = [self.floored(order, self.per_class) for order in chosen]
        yield self.measured(f"{name}, equal count", equal, seeds)
        counts = {id(order): self.fitting(order) for order in chosen}
        fitted = [self.floored(order, counts[id(order)]) for order in chosen]
        yield self.measured(f"{name}, equal bytes", fitted, seeds)

    def orders(self, name: str, seeds: Sequence[int]) -> list[np.ndarray]:
        """For each seed, positions of training images, int64 [k, most]: as many as it takes, the first ones first."""
        groups = classification.group(self.dataset.train.targets, self.class_count)
        drawn = [shuffled(groups, seed) for seed in seeds]
        if name == "random":
            return drawn
        # A coreset's images may compress better than those drawn at random, but hardly to half.
        most = min(drawn[0].shape[1], max(2 * self.fitting(drawn[0]), self.per_class))
        method: Any = start(name, replace(self.problem, ipc=most), {"epochs": LESSONS.epochs})
        return [method.positions.reshape(self.class_count, most)] * len(seeds)

    def fitting(self, order: np.ndarray) -> int:
        """How many images per class, at least 1, make a file of no more bytes than the bundle's."""
        most = order.shape[1]

        def fits(count: int) -> bool:
            return written_size(self.floored(order, count, labelled=False)) <= self.path.stat().st_size

        return largest(fits, most)

    def floored(self, order: np.ndarray, count: int, labelled: bool = True) -> Bundle:
        """The bundle with real images; labelled: with their labels' own values, which change its size by little."""
        train = self.dataset.train.take(order[:, :count].reshape(-1))
        labels = np.eye(self.class_count, dtype=np.float32)[train.targets]
        if self.soft and labelled:
            pixels = self.problem.normalise(torch.from_numpy(train.images))
            labels = self.teachers.labels(pixels, VIEWS, np.random.default_rng(0)).numpy()
        elif self.soft:
            labels = np.resize(np.asarray(self.bundle.labels), labels.shape)
        codes = Pixels.encode(train.images.astype(np.float32), self.bundle.manifest.radiometry.dtype)
        return replace(self.bundle, images=codes, labels=labels.astype(np.float16))

    def measured(self, name: str, bundles: Sequence[Bundle], seeds: Sequence[int]) -> Row:
        """One training per bundle and seed."""
        scores, seconds = [], []
        for bundle, seed in zip(bundles, seeds, strict=True):
            began = time.monotonic()
            scores.append(self._accuracy(bundle, seed))
            seconds.append(time.monotonic() - began)
        size = self.path.stat().st_size if name == DISTILLED else written_size(bundles[0])
        per_class = len(bundles[0].images) // self.class_count
        labels = "soft" if self.soft else "hard"
        return Row(name, per_class, labels, size, self.recipe.schedule.steps, scores, statistics.median(seconds))

    def _accuracy(self, bundle: Bundle, seed: int) -> float:
        return self.scores.accuracies(bundle, bundle.manifest.recipes[0], [seed], [self.test])[0][0]

    def whole(self, seed: int) -> Row:
        """The training set itself: the rate that suits it of a few, then as many epochs as it takes."""
        began = time.monotonic()
        parts = split(self.dataset.train, self.class_count, 0, 0)
        trainer, own = Trainer(self.recipe, threads=self.threads), self.recipe.schedule
        peak = max(own.learning_rate(step) for step in range(own.steps))
        first = [self.taught(trainer, parts, seed, FIRST_EPOCHS, peak * share) for share in RATES]
        best, epochs = max(first, key=lambda each: each.held_out), 2 * FIRST_EPOCHS
        while epochs <= MOST_EPOCHS:
            longer = self.taught(trainer, parts, seed, epochs, best.schedule.rate)
            gained = longer.held_out - best.held_out
            best = max(best, longer, key=lambda each: each.held_out)
            if gained < GAIN:
                break
            epochs *= 2
        if best.predictor is None:
            raise SystemExit(f"every training of {self.path.name} on the whole set diverged")
        count, schedule = len(parts.real), best.schedule
        passes = schedule.steps * trainer.batch / count
        name = (
            f"{WHOLE} ({passes:.0f} epochs of {count:,} images, batch {trainer.batch}, cosine from {schedule.rate:g})"
        )
        scores = [scored(best.predictor, self.test)]
        return Row(name, count // self.class_count, "hard", None, schedule.steps, scores, time.monotonic() - began)

    def taught(self, trainer: Trainer, parts: Splits, seed: int, epochs: int, rate: float) -> Taught:
        """One training on nine tenths of the training set."""
        steps = -(-len(parts.real) * epochs // trainer.batch)
        schedule = Schedule(steps, trainer.batch, "cosine", rate, warmup=steps // 20)
        try:
            trained = trainer.fit(parts.real, seed=seed, schedule=schedule)
        except Diverged:
            return Taught(schedule, -1.0, None)
        predictor = Predictor.open(export(trained, self.bundle), self.threads)
        return Taught(schedule, scored(predictor, parts.held_out), predictor)

    def cells(self, row: Row) -> list[str]:
        """The row as the table shows it."""
        scores = [100 * each for each in row.scores]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        return [
            self.path.name,
            row.name,
            str(row.per_class),
            row.labels,
            "-" if row.size is None else str(row.size),
            "fixed" if self.recipe.initial.fixed else "random",
            str(row.steps),
            f"{statistics.fmean(scores):.2f} +- {spread:.2f}",
            f"{min(scores):.2f}-{max(scores):.2f}",
            str(len(scores)),
            f"{row.seconds:.1f}",
            published(self.dataset.name, self.ipc, row.name),
            distilled_in(self.bundle) if row.name == DISTILLED else "",
        ]


def shuffled(groups: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Each group's positions in an order of their own, int64 [groups, size of the smallest]."""
    rng, most = np.random.default_rng(seed), min(len(group) for group in groups)
    return np.stack([rng.permutation(group)[:most] for group in groups])


def written_size(bundle: Bundle) -> int:
    """Bytes of a bundle's file as ``fieldkit build`` deflates it."""
    return len(write_bundle(bundle, zopfli.zlib.compress))


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to ``most`` that fits, where all below it do; 1 if none does."""
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def scored(predictor: Predictor, samples: Samples) -> float:
    """Accuracy of a written model, 0-1."""
    return classification.score(predictor.predict(samples.images), samples.targets).accuracy


def distilled_in(bundle: Bundle) -> str:
    """How long the distillation took and on what, as far as the card says."""
    told = bundle.card.get("distillation", {})
    method = bundle.manifest.method.get("name", "?")
    seconds = f", {told['seconds'] / 60:.0f} min" if "seconds" in told else ""
    hardware = f" on {told['hardware']}" if "hardware" in told else ""
    return f"{method}, {told.get('iterations', '?')} iterations{seconds}{hardware}"


def found_data(bundle: Bundle) -> str:
    """Where the data set lies that a bundle says it was made from, or its word."""
    name = str(bundle.manifest.provenance["data"]["name"])
    places = [str(place) for place in (DATA / f"{name}.h5", DATA / f"{name}.npz", DATA / name) if place.exists()]
    if not places and name not in SOURCES:
        raise SystemExit(f"no data set {name} in {DATA}: set FIELDKIT_DATA or name it with --data")
    return [*places, name][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--data", help="the data set of all bundles; by default each bundle's own")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each row")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--floors", nargs="*", choices=FLOORS, default=FLOORS)
    parser.add_argument("--whole", action="store_true", help="also the whole training set, once")
    settings = parser.parse_args()
    keep_memory()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    print(f"fieldkit {__version__}, onnxruntime {runtime_version()}, torch {torch.__version__}, ", end="")
    print(f"Python {platform.python_version()}, {platform.machine()}; trainings with seeds 0 to n - 1\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    datasets: dict[str, Dataset] = {}
    with tempfile.TemporaryDirectory() as cache:
        for path in settings.bundles:
            place = found_data(read_bundle(path)) if settings.data is None else settings.data
            if place not in datasets:
                datasets[place] = load(place)
            subject = Subject(path, datasets[place], settings.threads, Path(cache))
            for row in subject.rows(range(settings.seeds), settings.floors, settings.whole):
                print("| " + " | ".join(subject.cells(row)) + " |", flush=True)
                print(f"{path.name}: {row.name}", file=sys.stderr)
    print("\nPublished: " + "; ".join(f"{name}: {where}" for name, where in PAPERS.items()) + ".")


if __name__ == "__main__":
    main()
