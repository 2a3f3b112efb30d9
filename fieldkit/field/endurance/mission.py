"""Trainings that survive: a cut of power, a Ctrl-C, a full disk, heat; within a budget of time and memory.

A command that trains wraps its work in a ``Mission``::

    with Mission(state_folder(output), Conditions(threads=threads, tell=note)) as mission:
        trained = mission.train(Job(recipe, samples, scope, seed, about={"bundle": bundle.digest}), progress)
        write_atomically(output, ...)
        mission.finish()

After any kill the same call goes on from the last state that was saved, and ends with the same bits as a training that
was never cut.  ``finish`` removes the states, once the result is on the disk.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from array import array
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing as closed
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from fieldkit.bundle.atomic import write_atomically
from fieldkit.bundle.recipe import Schedule
from fieldkit.errors import Diverged, FieldkitError, Interrupted, UsageError
from fieldkit.field.endurance.budget import affordable, must_be_frugal
from fieldkit.field.endurance.checkpoint import Checkpoints, Snapshot
from fieldkit.field.endurance.conditions import Conditions as Conditions
from fieldkit.field.endurance.interruption import asked_to_stop
from fieldkit.field.endurance.job import Job as Job
from fieldkit.field.endurance.job import differences
from fieldkit.field.endurance.monitor import Account, Watch
from fieldkit.field.engine.session import available_threads
from fieldkit.field.engine.training import Progress, Trained, Trainer, TrainingState, begin, stretched

MAX_MINUTES = 1e9


class Mission:
    """One training whose state outlives its process.

    folder: where the states are kept, see ``checkpoint.state_folder``; None keeps none.
    Where the folder cannot be made or the disk is full, that is told once, and the training goes on in memory.
    Raises UsageError on entry if another process trains for the same folder.

    resumed: the step at which the training was resumed; None if it began anew.
    """

    def __init__(self, folder: Path | None, conditions: Conditions = Conditions()) -> None:
        self.folder = folder
        self.conditions = conditions
        self.resumed: int | None = None
        if conditions.minutes is not None and not 0 < conditions.minutes < MAX_MINUTES:
            raise UsageError("no time to train in", where="minutes", found=conditions.minutes, expected="more than 0")
        self._began = time.monotonic()
        self._watch = Watch(
            sensors=conditions.sensors, log=conditions.log, max_temp=conditions.max_temp, tell=conditions.tell
        )
        self._checkpoints: Checkpoints | None = None
        self._last: Snapshot | None = None
        self._lost = False
        self._host: ThreadPoolExecutor | None = None
        self._saving: Future[bool] | None = None

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
        if self._host is not None:
            self._host.shutdown()
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._watch.note("end", error=None if kind is None else kind.__name__)
        self._watch.close()

    def train(self, job: Job, progress: Progress | None = None, closing: float = 0.0) -> Trained:
        """Train to the end of the job's schedule, from the last saved state if there is one.

        closing: seconds that the caller needs afterwards, which a budget in time leaves.
        SIGINT and SIGTERM end the training after the step at hand: it saves its state and raises Interrupted.
        Raises ResourceError if the budget is too small, and what ``Trainer.run`` raises.
        """
        course = self._course(job, closing)
        try:
            self._run(course, progress)
        except Diverged:
            self._settle()
            if self._checkpoints is not None:
                self._checkpoints.forget(course.identity)
            raise
        self._settle()
        self._last = course.snapshot()
        return Trained(job.recipe, course.trainer.weights(), self._last.losses, job.seed, course.schedule.steps)

    def write(self, target: Path, content: bytes) -> None:
        """Write the result's file, whole or not at all, even if the process is killed meanwhile.

        Raises UsageError or ResourceError, which says what of the training is kept: its state, or else the result in
        the system's folder for temporary files.
        """
        try:
            if self._checkpoints is None:
                write_atomically(target, content)
            else:
                self._checkpoints.write(target, content, target.stat().st_mode & 0o777 if target.exists() else None)
        except FieldkitError as error:
            # Not the file beside the states, which the result is written to first.
            error.where = str(target)
            if self._last is not None and (self._save(self._last) or (self._checkpoints and self._checkpoints.kept)):
                error.remedy = f"{error.remedy}; then run the same command again, which goes on from the saved state"
            elif (refuge := _refuge(target, content)) is not None:
                error.remedy = f"it was written to {refuge} instead: {error.remedy}, and move it there"
            raise

    def account(self) -> Account:
        """What the mission took so far, in this process."""
        return self._watch.account()

    def finish(self) -> None:
        """The result is on the disk: remove the states."""
        self._last = None
        if self._checkpoints is not None:
            self._checkpoints.remove()

    def _course(self, job: Job, closing: float) -> _Course:
        """The training, opened within its budgets, at the step where it goes on."""
        start = begin(job.recipe, job.scope, job.seed, job.initial)
        identity = job.identity(start, minutes=self.conditions.minutes)
        found = self._resume(identity)
        threads = self._threads(found)
        limit = self.conditions.max_memory
        frugal = limit is not None and must_be_frugal(job, threads, start, limit)
        if frugal:
            self.conditions.tell(
                "memory is given back between any two operators, which takes longer, to keep to the limit"
            )
        trainer = Trainer(job.recipe, scope=job.scope, threads=threads, frugal=frugal)
        schedule = job.schedule or job.recipe.schedule
        if found is not None:
            schedule = stretched(schedule, int(found.decided["steps"]))
            losses = array("f", found.losses.astype("=f4").tobytes())
            return _Course(job, trainer, schedule, identity, dict(found.decided), found.state, losses)
        if self.conditions.minutes is not None:
            left = 60.0 * self.conditions.minutes - (time.monotonic() - self._began) - closing
            schedule = stretched(schedule, affordable(trainer, job, start, left, schedule.steps))
        decided = {"threads": threads, "steps": schedule.steps}
        course = _Course(job, trainer, schedule, identity, decided, start, array("f"))
        if self.conditions.minutes is not None:
            # Another measurement would decide for another number of steps.
            self._save(Snapshot(identity, start, np.zeros(0, np.float32), decided))
        return course

    def _run(self, course: _Course, progress: Progress | None) -> None:
        job, steps = course.job, course.schedule.steps
        made = course.trainer.run(
            job.samples, course.state, seed=job.seed, schedule=course.schedule, feeding=job.feeding
        )
        self._watch.note("begin", step=course.state.step, steps=steps, **course.identity)
        due = time.monotonic() + self.conditions.every
        with asked_to_stop() as stop, closed(made):
            for step, loss in made:
                course.losses.append(loss)
                self._watch.step(step + 1, loss)
                if progress is not None:
                    progress(step + 1, steps, loss)
                self._watch.cool(stop, lambda: self._save(course.snapshot()))
                if stop.is_set():
                    raise self._interrupted(course)
                if time.monotonic() >= due and (self._saving is None or self._saving.done()):
                    self._save_beside(course.snapshot())
                    due = time.monotonic() + self.conditions.every

    def _resume(self, identity: dict[str, Any]) -> Snapshot | None:
        """The newest state of the job of this identity; tells what is there and cannot be used."""
        if self._checkpoints is None:
            return None
        if self.conditions.fresh:
            self._checkpoints.forget(identity)
            return None
        found, faults = self._checkpoints.newest(identity)
        for fault in faults:
            self.conditions.tell(f"{fault}; it is left out")
        if found is not None:
            self.resumed = found.state.step
            self.conditions.tell(f"going on from step {found.state.step}, which {self.folder} holds")
            return found
        for other in self._checkpoints.others(identity):
            differs = differences(self._checkpoints.describe(other), identity)
            self.conditions.tell(f"{other} holds the state of another training ({differs}); this begins anew")
        return None

    def _save_beside(self, snapshot: Snapshot) -> None:
        """Save a state while the training goes on: hashing and writing 120 MB took two seconds, copying them 0.05."""
        self._host = self._host or ThreadPoolExecutor(1)
        self._saving = self._host.submit(self._write_state, snapshot)

    def _save(self, snapshot: Snapshot) -> bool:
        """Save a state now, if there is somewhere to; whether it is on the disk."""
        self._settle()
        return self._write_state(snapshot)

    def _settle(self) -> None:
        """Wait until no state is being written."""
        if self._saving is not None:
            self._saving.result()

    def _write_state(self, snapshot: Snapshot) -> bool:
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

    def _interrupted(self, course: _Course) -> Interrupted:
        """Save the state; the error that says how to go on."""
        found = f"step {len(course.losses)} of {course.schedule.steps}"
        if self._save(course.snapshot()):
            return Interrupted("interrupted; the state is saved", found=found, remedy="run the same command again")
        return Interrupted(
            "interrupted, and the state could not be saved", found=found, remedy="run the same command from its start"
        )

    def _threads(self, found: Snapshot | None) -> int:
        """How many threads to train with: as asked, else as before the cut, else all."""
        before, asked = None if found is None else int(found.decided["threads"]), self.conditions.threads
        if asked is None:
            return available_threads() if before is None else before
        if before not in (None, asked):
            self.conditions.tell(
                f"the state was made with {before} threads, this goes on with {asked}: the last bits may differ"
            )
        return asked


def _refuge(target: Path, content: bytes) -> Path | None:
    """Where a result was written that has no room in its place; None if there is none anywhere."""
    refuge = Path(tempfile.gettempdir()) / f"{target.stem}-{secrets.token_hex(4)}{target.suffix}"
    try:
        refuge.write_bytes(content)
    except OSError:
        refuge.unlink(missing_ok=True)
        return None
    return refuge


@dataclass(frozen=True)
class _Course:
    """A training under way.  state: where it goes on.  losses: of all steps made so far."""

    job: Job
    trainer: Trainer
    schedule: Schedule
    identity: dict[str, Any]
    decided: dict[str, Any]
    state: TrainingState
    losses: array[float]

    def snapshot(self) -> Snapshot:
        """The training as it is now."""
        losses = np.array(self.losses, np.float32)
        return Snapshot(self.identity, self.trainer.state(len(losses)), losses, self.decided)
