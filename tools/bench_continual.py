"""Class-incremental learning with one head: distilled memory beside raw exemplars of equal bytes.

    python tools/bench_continual.py DATA [--ipc 10] [--seconds 60] [--seeds 5] [--bundles FOLDER] [--rows ROW ...]

The data set's classes are cut into tasks of two, in order.  For each task HQ distils a bundle of its two classes, from
that task's training images and the distilled sets of earlier tasks alone (the method ``beside``); the recipe has spare
classes for all that come.  A device then learns task after task with ``fieldkit.learn``.  Rows differ in what it learns
from and remembers; recipe, training, storage and seeds are the same:

* distilled: the bundles; each task together with the bundles before;
* distilled, anew: the same, each time from first weights;
* distribution: bundles by the method ``distribution``, as ``fieldkit build --method distribution`` makes them;
* random, herding: bundles of as many raw images per class; herding by the features of a network trained on the task;
* stream, herding and stream, reservoir: the device sees every training image of a task, and its memory keeps raw
  exemplars, in the bytes that the distilled memory takes in the end (experience replay, ER);
* random x 5: five times as many raw images, as papers have them;
* stream, distilled: as the other streams, but the memory is the bundles;
* all data at HQ: the distilled images of --joint, a bundle of all classes made from all data at once, task by task.

Accuracy is the mean over tasks of the last model's accuracy on their test images, among all classes; forgetting is that
of ``continual.Report``.  Test images are read to report, and nothing is chosen by them.  Bundles are kept in FOLDER and
not made again; seconds are those of a device, for all tasks.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fieldkit import Bundle, Samples, __version__, first_state, learn, read_bundle, report_state
from fieldkit.bundle import save_bundle
from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Augmentation, Recipe, Schedule
from fieldkit.field.datasets import load_dataset
from fieldkit.field.engine.heap import keep_memory
from fieldkit.field.engine.session import runtime_version
from fieldkit.field.learning.continual import Options
from fieldkit.field.learning.state import State
from fieldkit.hq.compiler import Data, Sgd, compile_recipe
from fieldkit.hq.distil import MILD, start
from fieldkit.hq.distil.problem import Problem, Snapshot
from fieldkit.hq.earlier import joined
from fieldkit.hq.models import build_model
from fieldkit.hq.models.halving import quickened
from fieldkit.hq.models.normalisation import Normalise

PAIR = 2
ARCHITECTURE = "convnet"
ROWS = ("distilled", "distilled, anew", "random", "herding", "stream, herding", "stream, reservoir", "random x 5")
MORE = ("distribution", "stream, distilled", "all data at HQ")
COLUMNS = ("data", "memory", "images", "bytes", "accuracy, mean +- std", "range", "forgetting", "n", "seconds")


@dataclass(frozen=True)
class Setting:
    """Of one bench.

    ipc: images per class.  seconds: of the processor, to distil a task.  width: of the network.  steps: of a device's
    training, for each task.  formation: of what is distilled, as of ``fieldkit build``; the bytes stay the same.
    """

    data: Path
    ipc: int
    seconds: float
    width: int
    steps: int
    folder: Path
    augmentation: Augmentation
    formation: int
    joint: Path | None = None


class Bench:
    """One data set in tasks of two classes."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.dataset = load_dataset(setting.data)
        if self.dataset.test is None:
            raise SystemExit(f"{setting.data} has no test split")
        self.tasks = [list(range(first, first + PAIR)) for first in range(0, len(self.dataset.classes), PAIR)]
        setting.folder.mkdir(parents=True, exist_ok=True)

    @cached_property
    def radiometry(self) -> Radiometry:
        """What HQ knows when it makes the first bundle."""
        return Radiometry.measure(self.train(self.tasks[0]).images, self.dataset.bands)

    @cached_property
    def recipe(self) -> Recipe:
        """Compiled once, with outputs for all classes."""
        shape = self.dataset.train.images.shape[1:]
        spare = len(self.dataset.classes) - PAIR
        schedule = Schedule(self.setting.steps, 50, "cosine", 0.1, 10)
        made = compile_recipe(
            ARCHITECTURE,
            {"width": self.setting.width},
            Data((shape[0], shape[1], shape[2]), PAIR, self.radiometry, spare),
            optimiser=Sgd(),
            schedule=schedule,
            augmentation=self.setting.augmentation,
        )
        return made.recipe

    def train(self, classes: Sequence[int]) -> Samples:
        """The training images of a task, labelled from 0."""
        return _only(self.dataset.train, classes)

    def bundle(self, task: int, images: np.ndarray, labels: np.ndarray) -> Bundle:
        """A task's bundle of float32 images in native counts; its probe is the task's test images."""
        classes = tuple(self.dataset.classes[index] for index in self.tasks[task])
        shape = self.recipe_shape
        manifest = Manifest(
            name=f"task-{task + 1}",
            task="classification",
            classes=classes,
            input_shape=shape,
            radiometry=self.radiometry,
            method={"name": "bench_continual"},
            recipes=(self.recipe.name,),
            spare_classes=len(self.dataset.classes) - PAIR,
        )
        assert self.dataset.test is not None
        pixels = Pixels.encode(images, self.radiometry.dtype)
        probe = _only(self.dataset.test, self.tasks[task])
        return Bundle(manifest, pixels, labels.astype(np.float16), {self.recipe.name: self.recipe}, probe)

    @property
    def recipe_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.dataset.train.images.shape[1:]
        return channels, height, width

    def distilled(self, kind: str) -> list[Bundle]:
        """Every task's bundle by "beside" or a method of fieldkit's, from the folder or made in turn."""
        made: list[Bundle] = []
        for task in range(len(self.tasks)):
            size = f"{self.setting.ipc}x{self.setting.formation**2}"
            path = self.setting.folder / f"{self.setting.data.stem}-{kind}-{size}-{task + 1}.h5"
            if not path.exists():
                took = time.monotonic()
                snapshot = self.distil(task, kind, made)
                save_bundle(self.bundle(task, snapshot.images, snapshot.labels), path)
                print(f"{path.name}: {time.monotonic() - took:.0f} s", file=sys.stderr, flush=True)
            made.append(read_bundle(path))
        return made

    def distil(self, task: int, kind: str, earlier: Sequence[Bundle]) -> Snapshot:
        """A task's set after the time that there is for it."""
        problem = replace(self.problem(task), formation=self.setting.formation)
        if kind == "beside" and earlier:
            module = self.module(PAIR * (task + 1))
            problem = replace(problem, earlier=joined(earlier).posed(module, problem.normalise, problem.device))
        began = time.process_time()
        distillation = start(kind, problem, {})
        while (done := (time.process_time() - began) / self.setting.seconds) < 1.0:
            distillation.step(done)
        return distillation.snapshot()

    def module(self, outputs: int) -> nn.Module:
        return quickened(build_model(ARCHITECTURE, {"width": self.setting.width}, self.recipe_shape, outputs))

    def problem(self, task: int) -> Problem:
        return Problem(
            real=self.train(self.tasks[task]),
            module=self.module(PAIR),
            normalise=Normalise(self.radiometry),
            ipc=self.setting.ipc,
            class_count=PAIR,
            schedule=self.recipe.schedule,
            augmentation=self.recipe.augmentation,
            seed=task,
        )

    def raw(self, kind: str, per_class: int, seed: int) -> list[Bundle]:
        """Every task's bundle of raw images: "random", or "herding" by a network trained on the task."""
        made = []
        for task, classes in enumerate(self.tasks):
            train = self.train(classes)
            if kind == "random":
                rng = np.random.default_rng([seed, task])
                groups = [np.flatnonzero(train.targets == each) for each in range(PAIR)]
                chosen = np.concatenate([rng.permutation(each)[:per_class] for each in groups])
            else:
                problem = replace(self.problem(task), ipc=per_class, seed=seed)
                chosen = np.asarray(start(kind, problem, {"epochs": 1}).positions)  # type: ignore[attr-defined]
            picked = train.take(chosen)
            labels = np.eye(PAIR, dtype=np.float32)[picked.targets]
            made.append(self.bundle(task, picked.images.astype(np.float32), labels))
        return [replace(each, digest=f"{seed}-{task}") for task, each in enumerate(made)]

    def jointly(self) -> list[Bundle]:
        """A bundle of all classes, cut into tasks; of its labels, what is said of a task's own classes."""
        if self.setting.joint is None:
            raise SystemExit("name a bundle of all classes with --joint")
        whole = read_bundle(self.setting.joint)
        if whole.manifest.classes != self.dataset.classes:
            raise SystemExit(f"{self.setting.joint} is of other classes")
        images, labels = whole.images.decode(), whole.labels.astype(np.float32)
        made = []
        for task, classes in enumerate(self.tasks):
            mine = np.isin(labels.argmax(axis=1), classes)
            own = labels[mine][:, classes].clip(min=0.0)
            made.append(self.bundle(task, images[mine], own / own.sum(axis=1, keepdims=True)))
        return [replace(each, digest=f"joint-{task}") for task, each in enumerate(made)]

    def learnt(self, sources: Sequence[Bundle], seed: int, *, anew: bool = False) -> State:
        """The state after every bundle in turn."""
        state = first_state(sources[0], limit=1 << 30)
        for each in sources:
            state = learn(state, each, Options(seed, self.setting.steps, anew=anew, threads=1))
        return state

    def streamed(self, first: Bundle, choice: str, limit: int, seed: int) -> State:
        """The state after every task's own training images in turn, with a memory of ``limit`` bytes.

        choice: of exemplars; or "distilled" for the bundles, which then fill the memory.
        """
        state = first_state(first, limit=limit)
        for task, classes in enumerate(self.tasks):
            assert self.dataset.test is not None
            names = tuple(self.dataset.classes[index] for index in classes)
            probe = _only(self.dataset.test, classes)
            data = replace(self.dataset, train=self.train(classes), test=probe, classes=names, name=f"task-{task + 1}")
            if choice == "distilled":
                state = learn(state, self.distilled("beside")[task], Options(seed, 1, threads=1))
            chosen = "herding" if choice == "distilled" else choice
            state = learn(state, data, Options(seed, self.setting.steps, choice=chosen, threads=1))
        return state

    def row(self, name: str, seeds: Sequence[int]) -> list[str]:
        """One line of the table."""
        states, seconds = [], []
        for seed in seeds:
            sources = self.sources(name, seed)
            began = time.monotonic()
            if name.startswith("stream"):
                limit = self.learnt_bytes
                states.append(self.streamed(sources[0], name.partition(", ")[2], limit, seed))
            else:
                states.append(self.learnt(sources, seed, anew=name.endswith("anew")))
            seconds.append(time.monotonic() - began)
            print(f"{name}, seed {seed}: {report_state(states[-1]).accuracy:.4f}", file=sys.stderr, flush=True)
        reports = [report_state(each) for each in states]
        scores = [100 * (each.accuracy or 0.0) for each in reports]
        forgotten = [100 * (each.forgetting or 0.0) for each in reports]
        return [
            self.setting.data.stem,
            name,
            str(len(states[0].memory)),
            str(states[0].memory.bytes),
            f"{statistics.fmean(scores):.2f} +- {_spread(scores):.2f}",
            f"{min(scores):.2f}-{max(scores):.2f}",
            f"{statistics.fmean(forgotten):.2f} +- {_spread(forgotten):.2f}",
            str(len(scores)),
            f"{statistics.median(seconds):.0f}",
        ]

    def sources(self, name: str, seed: int) -> list[Bundle]:
        """The bundles that a row learns from; of a stream, the first only gives the model."""
        if name.startswith(("distilled", "stream")):
            return self.distilled("beside")
        if name == "all data at HQ":
            return self.jointly()
        if name in MORE:
            return self.distilled(name)
        times = 5 if name.endswith("x 5") else 1
        return self.raw(name.partition(" ")[0], times * self.setting.ipc, seed)

    @cached_property
    def learnt_bytes(self) -> int:
        """What the distilled memory takes after the last task."""
        state = first_state(self.distilled("beside")[0], limit=1 << 30)
        for each in self.distilled("beside"):
            state = learn(state, each, Options(steps=1, threads=1))
        return state.memory.bytes


def _only(samples: Samples, classes: Sequence[int]) -> Samples:
    """The samples of these classes, labelled by their place among them."""
    places = np.full(int(samples.targets.max()) + 1, -1)
    places[list(classes)] = np.arange(len(classes))
    labels = places[samples.targets]
    chosen = samples.take(np.flatnonzero(labels >= 0))
    return Samples(np.ascontiguousarray(chosen.images), places[chosen.targets])


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help="of the processor, to distil a task")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200, help="of a device's training, for each task")
    parser.add_argument("--bundles", type=Path, default=Path("continual-bundles"))
    parser.add_argument("--formation", type=int, default=1, help="2 distils four half-size images in the place of one")
    parser.add_argument("--rows", nargs="+", choices=ROWS + MORE, default=ROWS)
    parser.add_argument("--joint", type=Path, help="a bundle of all classes, for the row all data at HQ")
    parser.add_argument("--flip", action="store_true", help="mirror images at random in training")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    augmentation = replace(MILD, flip=given.flip)
    setting = Setting(
        given.data,
        given.ipc,
        given.seconds,
        given.width,
        given.steps,
        given.bundles,
        augmentation,
        given.formation,
        given.joint,
    )
    bench = Bench(setting)
    print(f"fieldkit {__version__}, onnxruntime {runtime_version()}, torch {torch.__version__}, ", end="")
    print(f"Python {platform.python_version()}, {platform.machine()}; {ARCHITECTURE} of width {given.width}\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS), flush=True)
    for name in given.rows:
        print("| " + " | ".join(bench.row(name, range(given.seeds))) + " |", flush=True)


if __name__ == "__main__":
    main()
