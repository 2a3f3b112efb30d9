"""Trainings that survive: a cut of power, a Ctrl-C, a full disk.

A command that trains wraps its work in a ``Mission``::

    with Mission(state_folder(output), Conditions(threads=threads, tell=note)) as mission:
        trained = mission.train(Job(recipe, samples, scope, seed, about={"bundle": bundle.digest}), progress)
        write_atomically(output, ...)
        mission.finish()

After any kill the same call goes on from the last state that was saved, and ends with the same bits as a training that
was never cut.  ``finish`` removes the states, once the result is on the disk.
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from fieldkit.bundle import documents
from fieldkit.bundle.recipe import Initial, Recipe, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.errors import Diverged, FieldkitError, Interrupted
from fieldkit.field.admission import Sealer
from fieldkit.field.checkpoint import Checkpoints, Snapshot
from fieldkit.field.session import available_threads, runtime_version
from fieldkit.field.training import Feeding, Progress, Trained, Trainer, TrainingState, begin

EVERY = 10.0
"""Seconds between two saved states."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def silent(message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Conditions:
    """Under which a training runs.

    threads: None takes every processor; a resumed training keeps the number it had.
    every: seconds between two saved states.
    fresh: give up a state that is there, and begin anew.
    sealer: closes the states of a training on an encrypted bundle.
    tell: called with one sentence whenever the user should know: a resumed state, a disk that is full.
    """

    threads: int | None = None
    every: float = EVERY
    fresh: bool = False
    sealer: Sealer | None = None
    tell: Callable[[str], None] = silent


@dataclass(frozen=True)
class Job:
    """One training, and all that decides its result.

    schedule, initial: None takes the recipe's.
    feeding: as in ``Trainer.run``.  Whatever it knows that is in no other field must be in ``about``.
    about: JSON that belongs to the job's identity: digests of what it comes from, options.  A state is resumed by a job
    that has the same program, samples, first weights, seed, schedule, version of onnxruntime and ``about``.
    """

    recipe: Recipe
    samples: Samples
    scope: str = "full"
    seed: int = 0
    schedule: Schedule | None = None
    initial: Initial | None = None
    feeding: Feeding | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, start: TrainingState) -> dict[str, Any]:
        """The job as JSON: everything that decides the bits of its result, but for the number of threads."""
        digest = hashlib.sha256()
        for name, values in start.tensors.items():
            digest.update(f"{name} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return {
            "recipe": self.recipe.name,
            "scope": self.scope,
            "program": hashlib.sha256(self.recipe.programs[f"train/{self.scope}"]).hexdigest(),
            "samples": self.samples.digest(),
            "start": digest.hexdigest(),
            "seed": self.seed,
            "schedule": (self.schedule or self.recipe.schedule).to_json(),
            "onnxruntime": runtime_version(),
            **self.about,
        }


class Mission:
    """One training whose state outlives its process.

    folder: where the states are kept, see ``checkpoint.state_folder``; None keeps none.
    Where the folder cannot be made or the disk is full, that is told once, and the training goes on in memory.
    Raises UsageError on entry if another process trains for the same folder.
    """

    def __init__(self, folder: Path | None, conditions: Conditions = Conditions()) -> None:
        self.folder = folder
        self.conditions = conditions
        self.resumed: int | None = None
        """The step at which the training was resumed; None if it began anew."""
        self._checkpoints: Checkpoints | None = None
        self._latest: Callable[[], Snapshot] | None = None
        self._lost = False

    def __enter__(self) -> Mission:
        if self.folder is not None:
            try:
                self._checkpoints = Checkpoints(self.folder, self.conditions.sealer)
            except FieldkitError as error:
                self._lose(error)
        if self._checkpoints is not None:
            self._checkpoints.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._latest is not None and isinstance(error, FieldkitError) and not isinstance(error, Diverged):
            # The result could not be written: the next run need not train again.
            self._save(self._latest())
        if self._checkpoints is not None:
            self._checkpoints.close()

    def train(self, job: Job, progress: Progress | None = None) -> Trained:
        """Train to the end of the job's schedule, from the last saved state if there is one.

        Saves a state every ``conditions.every`` seconds.  SIGINT and SIGTERM end it after the step at hand: it saves
        its state and raises Interrupted.  Raises what ``Trainer.run`` raises.
        """
        start = begin(job.recipe, job.scope, job.seed, job.initial)
        identity = documents.decode(documents.encode(job.identity(start)), "job")
        snapshot = self._resume(identity) or Snapshot(identity, start, np.zeros(0, np.float32))
        threads = self._threads(snapshot)
        schedule = job.schedule or job.recipe.schedule
        trainer = Trainer(job.recipe, scope=job.scope, threads=threads)
        losses, decided = array("f", snapshot.losses.tobytes()), {"threads": threads}

        def latest() -> Snapshot:
            values = np.frombuffer(losses, np.float32) if losses else np.zeros(0, np.float32)
            return Snapshot(identity, trainer.state(len(losses)), values, decided)

        steps = trainer.run(job.samples, snapshot.state, seed=job.seed, schedule=schedule, feeding=job.feeding)
        due = time.monotonic() + self.conditions.every
        with _asked_to_stop() as stop:
            for step, loss in steps:
                losses.append(loss)
                if progress is not None:
                    progress(step + 1, schedule.steps, loss)
                if stop.is_set():
                    raise self._interrupted(latest(), schedule.steps)
                if time.monotonic() >= due:
                    self._save(latest())
                    due = time.monotonic() + self.conditions.every
        self._latest = latest
        return Trained(job.recipe, trainer.weights(), np.array(losses, np.float32), job.seed, schedule.steps)

    def finish(self) -> None:
        """The result is on the disk: remove the states."""
        self._latest = None
        if self._checkpoints is not None:
            self._checkpoints.remove()

    def _resume(self, job: Mapping[str, Any]) -> Snapshot | None:
        """The newest state of ``job``; tells what is there and cannot be used."""
        if self._checkpoints is None:
            return None
        if self.conditions.fresh:
            self._checkpoints.forget(job)
            return None
        found, faults = self._checkpoints.newest(job)
        for fault in faults:
            self.conditions.tell(f"{fault}; it is left out")
        if found is not None:
            self.resumed = found.state.step
            self.conditions.tell(f"going on from step {found.state.step}, which {self.folder} holds")
            return found
        for other in self._checkpoints.others(job):
            differs = _differences(self._checkpoints.describe(other), job)
            self.conditions.tell(f"{other} holds the state of another training ({differs}); this begins anew")
        return None

    def _save(self, snapshot: Snapshot) -> bool:
        """Save a state if there is somewhere to; whether it is on the disk."""
        if self._checkpoints is None:
            return False
        try:
            self._checkpoints.save(snapshot)
        except FieldkitError as error:
            self._lose(error)
            return False
        self._lost = False
        return True

    def _lose(self, error: FieldkitError) -> None:
        """Tell, once until a state is saved again, that states cannot be kept."""
        if not self._lost:
            reason = str(error).splitlines()[0]
            self.conditions.tell(f"the training's state cannot be saved, so it goes on in memory alone: {reason}")
        self._lost = True

    def _interrupted(self, snapshot: Snapshot, steps: int) -> Interrupted:
        """Save ``snapshot``; the error that says how to go on."""
        found = f"step {snapshot.state.step} of {steps}"
        if self._save(snapshot):
            return Interrupted("interrupted; the state is saved", found=found, remedy="run the same command again")
        return Interrupted(
            "interrupted, and the state could not be saved",
            found=found,
            remedy="run the same command again from the start",
        )

    def _threads(self, snapshot: Snapshot) -> int:
        """How many threads to train with: as asked, else as before the cut, else all."""
        before, asked = snapshot.decided.get("threads"), self.conditions.threads
        if asked is None:
            return available_threads() if before is None else int(before)
        if before not in (None, asked):
            self.conditions.tell(
                f"the state was made with {before} threads, this goes on with {asked}: the last bits may differ"
            )
        return asked


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set when the process is asked to end, for the first time; the second time it ends at once.

    A step must not be torn, so neither signal raises anything while this lasts.
    """
    stop = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():
        # A signal that is ignored, as under nohup, or that somebody else handles, stays so.
        usual = (signal.SIG_DFL, signal.default_int_handler)
        before = {each: signal.getsignal(each) for each in _SIGNALS if signal.getsignal(each) in usual}
        for each in before:
            signal.signal(each, ask)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In what two jobs differ, in words."""
    if not one:
        return "it cannot be read"
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    short = [
        f"{name} {one[name]}" for name in names if isinstance(one.get(name), int | str) and len(str(one[name])) < 30
    ]
    return ", ".join(short or names)
