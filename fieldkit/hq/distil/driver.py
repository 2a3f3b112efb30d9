"""The one loop around every method: time, checkpoints, selection, interruption.

The driver asks ``judge`` for the worth of a snapshot: that trains from the written bundle through the field engine on a
held-out split (fieldkit.hq.evidence).  It never sees test data.
"""

from __future__ import annotations

import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fieldkit.errors import Diverged, ProgramError
from fieldkit.hq.distil.checkpoint import ALONE, Checkpoint, Run
from fieldkit.hq.distil.problem import Distillation, Snapshot
from fieldkit.hq.distil.workers import Workers

JUDGEMENTS = 10
JUDGING_SHARE = 0.2
SAVE_EVERY = 30.0

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
            _step(distillation, run, done)
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
    return _outcome(run, stopped)


def _step(distillation: Distillation, run: Run, done: float) -> None:
    began = time.monotonic()
    try:
        run.loss = distillation.step(done)
    except RuntimeError as error:
        named = _not_differentiable(error)
        if named is None:
            raise
        raise named from error
    run.iterations += 1
    run.seconds += time.monotonic() - began


def _not_differentiable(error: RuntimeError) -> ProgramError | None:
    """What a recipe lacks whose network a method cannot differentiate as often as it has to; None for another fault."""
    found = re.search(r"derivative for (\S+) is not implemented", str(error))
    if found is None:
        return None
    return ProgramError(
        "the method takes the gradient of a gradient, which torch has not for this recipe",
        where="distillation",
        found=found.group(1),
        expected="operators that torch differentiates twice",
        remedy="choose a method that differentiates once, such as ridge, distribution or generative; or replace that "
        "operator in the network (torch.nn.Hardsigmoid as a layer is replaced by itself)",
    )


def _outcome(run: Run, stopped: bool) -> Outcome:
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
