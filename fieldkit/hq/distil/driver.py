"""The one loop around every method: time, checkpoints, selection, interruption.

The driver asks ``judge`` for the worth of a snapshot: that trains from the written bundle through the field engine on a
held-out split (fieldkit.hq.evidence).  It never sees test data.
"""

from __future__ import annotations

import io
import math
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fieldkit.bundle.atomic import write_atomically
from fieldkit.bundle.recipe import Schedule
from fieldkit.errors import Diverged, ResourceError, UsageError
from fieldkit.hq.distil.problem import Distillation, Snapshot, State
from fieldkit.hq.distil.workers import Workers

JUDGEMENTS = 10
JUDGING_SHARE = 0.2
SAVE_EVERY = 30.0
ALONE = Workers()

Judge = Callable[[Snapshot], float]


@dataclass(frozen=True)
class Budget:
    """How long to distil: a number of iterations (repeatable to the byte) or of seconds; of both, what ends first.

    Seconds count the method's own work and the judging, over all resumed parts.
    """

    iterations: int | None = None
    seconds: float | None = None

    def done(self, iterations: int, seconds: float) -> float:
        """Share of the budget that is used up, 0-1."""
        shares = [0.0]
        if self.iterations is not None:
            shares.append(iterations / self.iterations)
        if self.seconds is not None:
            shares.append(seconds / self.seconds)
        return min(max(shares), 1.0)


@dataclass(frozen=True)
class Status:
    """What a progress display shows: share done (0-1), iterations, seconds, last loss, best held-out score (0-1)."""

    done: float
    iterations: int
    seconds: float
    loss: float
    best: float | None


Report = Callable[[Status], None]


@dataclass(frozen=True)
class Outcome:
    """The best snapshot and its held-out score (0-1), how long it took, and whether the user stopped it early.

    curve: (iteration, score) of every judged snapshot.
    """

    best: Snapshot
    score: float
    iterations: int
    seconds: float
    interrupted: bool
    curve: tuple[tuple[int, float], ...]


@dataclass
class Run:
    """What a run carries from iteration to iteration, besides the method's own state.

    judging: seconds spent on judging.  judged, judged_at: iteration and second of the last judgement.
    """

    iterations: int = 0
    seconds: float = 0.0
    judging: float = 0.0
    judged: int = 0
    judged_at: float = 0.0
    loss: float = math.nan
    best: Snapshot | None = None
    score: float | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)


class Checkpoint:
    """A file from which a stopped run goes on, on any device; ``spec`` names the job: no other job resumes from it.

    path None keeps nothing.  warn: told when there is no room for the file; the work goes on without it.
    """

    def __init__(
        self, path: Path | None, spec: dict[str, Any], warn: Callable[[str], None] = lambda text: None
    ) -> None:
        self.path = path
        self.spec = spec
        self.warn = warn

    def save(self, distillation: Distillation, run: Run) -> None:
        """Write the method's state and the run's atomically."""
        if self.path is None:
            return
        best = None if run.best is None else _stored(run.best)
        file = io.BytesIO()
        torch.save({"spec": self.spec, "method": distillation.state(), "run": vars(run) | {"best": best}}, file)
        try:
            write_atomically(self.path, file.getvalue())
        except ResourceError as error:
            self.warn(f"the work goes on, but --resume cannot go on from here: {error}")

    def begun(self) -> dict[str, Any]:
        """What names the stopped job.  Raises UsageError if there is no checkpoint or it is damaged."""
        return dict(self._stored()["spec"])

    def load(self, distillation: Distillation, workers: Workers = ALONE) -> Run:
        """Put the stored state, which the first worker reads, into ``distillation``; the run's own is returned.

        Raises UsageError if there is no checkpoint, it is damaged, or it belongs to another job.
        """
        state, run = workers.told(self._read)
        distillation.restore(state)
        best = run["best"]
        return Run(**run | {"best": None if best is None else _restored(best)})

    def _read(self) -> tuple[State, dict[str, Any]]:
        stored = self._stored()
        if stored["spec"] != self.spec:
            raise _foreign(self.path, stored["spec"], self.spec)
        return stored["method"], stored["run"]

    def _stored(self) -> dict[str, Any]:
        if self.path is None or not self.path.is_file():
            raise UsageError("there is nothing to resume", where=self.path, remedy="run it without --resume")
        try:
            stored = torch.load(self.path, weights_only=True, map_location="cpu")
            return {name: stored[name] for name in ("spec", "method", "run")}
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
            raise UsageError(
                "the checkpoint is damaged",
                where=self.path,
                found=type(error).__name__,
                remedy="remove it and run without --resume",
            ) from error

    def remove(self) -> None:
        """Forget the job once its bundle is written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _foreign(path: Path | None, found: Mapping[str, Any], expected: Mapping[str, Any]) -> UsageError:
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return UsageError(
        "the checkpoint belongs to a job with other settings",
        where=path,
        found=", ".join(f"{name} {found.get(name)}" for name in names),
        expected=", ".join(f"{name} {expected.get(name)}" for name in names),
        remedy="repeat the options of the stopped job, or run without --resume",
    )


def _stored(snapshot: Snapshot) -> dict[str, Any]:
    schedule = None if snapshot.schedule is None else snapshot.schedule.to_json()
    return {
        "images": torch.from_numpy(snapshot.images),
        "labels": torch.from_numpy(snapshot.labels),
        "schedule": schedule,
    }


def _restored(stored: dict[str, Any]) -> Snapshot:
    schedule = None if stored["schedule"] is None else Schedule.from_json(stored["schedule"])
    return Snapshot(stored["images"].numpy(), stored["labels"].numpy(), schedule)


def drive(
    distillation: Distillation,
    budget: Budget,
    judge: Judge,
    checkpoint: Checkpoint,
    *,
    resume: bool = False,
    report: Report = lambda status: None,
    workers: Workers = ALONE,
) -> Outcome:
    """Iterate until the budget is used up or the user interrupts; keep the snapshot with the best held-out score.

    Ctrl-C ends the loop in good order after the iteration at hand: the state is kept for ``resume`` and the best
    snapshot so far returned.  A second Ctrl-C stops at once, as usual.  Raises Diverged if no snapshot could be judged.

    workers: all of them make each iteration; the first alone keeps time, judges, saves and reports.
    """
    run = checkpoint.load(distillation, workers) if resume else Run()
    saved = time.monotonic()
    with _interruptible() as interrupted:
        while (done := workers.told(lambda: _done(budget, run, interrupted()))) < 1.0:
            began = time.monotonic()
            run.loss = distillation.step(done)
            run.iterations += 1
            run.seconds += time.monotonic() - began
            if not workers.first:
                continue
            if _due(budget, run):
                _judge(distillation, judge, run)
            if time.monotonic() - saved > SAVE_EVERY:
                checkpoint.save(distillation, run)
                saved = time.monotonic()
            report(Status(budget.done(run.iterations, run.seconds), run.iterations, run.seconds, run.loss, run.score))
        stopped = interrupted()
        if not workers.first:
            return Outcome(distillation.snapshot(), math.nan, run.iterations, run.seconds, stopped, ())
        # Before the extra judgement, which a run that was never stopped would not have made; and even at the end, since
        # much can happen before the bundle is written.
        checkpoint.save(distillation, run)
        if run.iterations != run.judged:
            _judge(distillation, judge, run)
    if run.best is None or run.score is None:
        raise Diverged(
            "no distilled set could be trained on",
            where="distillation",
            found=f"every training diverged over {run.iterations} iterations",
            remedy="choose another method, a smaller learning rate, or another --seed",
        )
    return Outcome(run.best, run.score, run.iterations, run.seconds, stopped, tuple(run.curve))


def _done(budget: Budget, run: Run, interrupted: bool) -> float:
    """The share of the budget that is used up; an interruption ends it."""
    return 1.0 if interrupted else budget.done(run.iterations, run.seconds)


def _due(budget: Budget, run: Run) -> bool:
    """Whether to judge now: evenly over what ends first, and by time never for more than a fifth of it."""
    if budget.iterations is not None and run.iterations - run.judged >= math.ceil(budget.iterations / JUDGEMENTS):
        return True
    if budget.seconds is None:
        return False
    rested = run.seconds - run.judged_at >= budget.seconds / JUDGEMENTS
    return rested and run.judging <= JUDGING_SHARE * run.seconds


def _judge(distillation: Distillation, judge: Judge, run: Run) -> None:
    """Score the set as it stands; a set on which training diverges has no score."""
    began = time.monotonic()
    snapshot = distillation.snapshot()
    try:
        score = judge(snapshot)
    except Diverged:
        score = -math.inf
    if math.isfinite(score):
        run.curve.append((run.iterations, score))
        if run.score is None or score >= run.score:
            run.best, run.score = snapshot, score
    took = time.monotonic() - began
    run.judging += took
    run.seconds += took
    run.judged, run.judged_at = run.iterations, run.seconds


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C only sets what the yielded function returns."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def press(_number: int, _frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, press)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
