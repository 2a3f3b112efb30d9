"""What a training takes here, found by making a few of its steps in a process of their own.

A process of its own starts with the least memory, and can run out of it without taking the caller along.
"""

from __future__ import annotations

import json
import pickle
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldkit.bundle.recipe import Recipe, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.errors import FieldkitError, ProgramError, ResourceError, UsageError
from fieldkit.field.device.description import held_memory, peak_memory
from fieldkit.field.device.sensors import Meter, Sensors
from fieldkit.field.engine.isolation import isolated
from fieldkit.field.engine.providers import chosen_provider, use_provider
from fieldkit.field.engine.training import Trainer, TrainingState, begin

LEAST = 4
"""Steps that are made at least: by then an allocator holds all that it will."""
MOST = 1_000_000
WARM_UP = 1
_ERRORS = {each.__name__: each for each in (ProgramError, ResourceError, UsageError)}


@dataclass(frozen=True)
class Rehearsal:
    """What a few steps took.

    memory: bytes that the opened program and its steps added to the process at the most.  process: bytes that the whole
    process held at the most.  opening: seconds.  steps: seconds of each step after the first.  batch: images in a step.
    joules: of a step; None where power cannot be read.
    """

    memory: int
    process: int
    opening: float
    steps: tuple[float, ...]
    batch: int
    joules: float | None = None

    @property
    def step(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.steps)

    @property
    def mean(self) -> float:
        """Mean seconds of a step, of which a whole training is made."""
        return statistics.fmean(self.steps)


@dataclass(frozen=True)
class Scene:
    """What is rehearsed.  frugal: as in ``session.open_session``.  seconds: how long, at least ``LEAST`` steps."""

    recipe: Recipe
    scope: str = "full"
    threads: int | None = None
    frugal: bool = False
    seconds: float = 0.0


def rehearse(scene: Scene) -> Rehearsal:
    """Make a few training steps in a child process, on images of zeros.

    Raises ResourceError if there is too little memory for them, and what opening a program raises.
    """
    # The child unpickles what this process writes, over a pipe that nobody else has.
    handed = pickle.dumps((scene, chosen_provider()))
    try:
        done = subprocess.run(isolated(__name__), input=handed, capture_output=True, check=False)
    except OSError as error:
        raise ResourceError(f"no process could be started: {error.strerror}", remedy="end other programs") from error
    if done.returncode != 0:
        raise _failed(scene, done.returncode, done.stderr.decode("utf-8", "replace"))
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise _ERRORS[answer["error"]](answer["message"], where=answer["where"], found=answer["found"])
    return Rehearsal(**answer | {"steps": tuple(answer["steps"])})


def serve() -> None:
    """The child's side."""
    scene, provider = pickle.load(sys.stdin.buffer)
    # Before onnxruntime is used for anything: its first call alone brings megabytes of its library in.
    held = held_memory()
    use_provider(provider)
    try:
        answer = vars(_perform(scene, held))
    except FieldkitError as error:
        kind = next((name for name, each in _ERRORS.items() if isinstance(error, each)), "ProgramError")
        answer = {"error": kind, "message": error.message, "where": error.where, "found": error.found}
    sys.stdout.write(json.dumps(answer))


def _perform(scene: Scene, held: int) -> Rehearsal:
    state, began = begin(scene.recipe, scene.scope, 0), time.perf_counter()
    trainer = Trainer(scene.recipe, scope=scene.scope, threads=scene.threads, frugal=scene.frugal)
    opening = time.perf_counter() - began
    times = []
    meter = Meter(Sensors())
    for seconds in _steps(trainer, state):
        times.append(seconds)
        meter.read()
        if len(times) >= LEAST and sum(times) >= scene.seconds:
            break
    joules = None if meter.joules is None else meter.joules / len(times)
    return Rehearsal(peak_memory() - held, peak_memory(), opening, tuple(times[WARM_UP:]), trainer.batch, joules)


def _steps(trainer: Trainer, state: TrainingState) -> Iterator[float]:
    """The seconds of one step after the other, at learning rate 0."""
    shapes = trainer.shapes
    images, targets = np.zeros(shapes["images"], np.float32), np.zeros(shapes["targets"], np.float32)
    targets[:, 0] = 1.0
    schedule, last = Schedule(MOST, trainer.batch), time.perf_counter()
    for _ in trainer.run(Samples(images, targets), state, seed=0, schedule=schedule):
        now = time.perf_counter()
        yield now - last
        last = now


def _failed(scene: Scene, status: int, complaint: str) -> FieldkitError:
    """Why the child gave no answer: the system's limit, or a bug."""
    where = f"recipe {scene.recipe.name}, program train/{scene.scope}"
    if status in (-signal.SIGKILL, -signal.SIGABRT) or any(sign in complaint for sign in ("MemoryError", "bad_alloc")):
        return ResourceError("not enough memory for a training step", where=where, remedy="choose a smaller recipe")
    return FieldkitError(
        "a few steps failed", where=where, found=complaint.strip().rpartition("\n")[2] or f"end {status}"
    )
