"""Trainings that keep to the time and the memory that a device has for them."""

from __future__ import annotations

import time
from collections.abc import Iterator

from fieldkit.errors import ResourceError
from fieldkit.field.device.description import held_memory
from fieldkit.field.endurance.job import Job
from fieldkit.field.endurance.rehearsal import Scene, rehearse
from fieldkit.field.engine.training import Trainer, TrainingState

MARGIN = 1.05
"""A training takes longer than a few of its steps say: states are saved, the device grows warm."""
WARM_UP, LEAST = 2, 3
SHARE, MOST_SECONDS = 0.03, 5.0
"""How much of the time, and how long at the most, a step is measured."""
SLACK = 4 << 20
"""Bytes for all that a training holds beside its program and its states: batches that are prepared, losses, a log."""
STATES = 3
"""A state is copied to be saved, and once more to be sealed; in the end the model is made of it."""


def affordable(trainer: Trainer, job: Job, start: TrainingState, left: float, most: int) -> int:
    """How many steps, ``most`` at the most, end within ``left`` seconds.

    A few real steps are made and timed; the trainer's state is then no longer ``start``.
    Raises ResourceError if there is not even time for one.
    """
    begin = time.monotonic()
    times: list[float] = []
    for seconds in _seconds(trainer, job, start):
        times.append(seconds)
        measured = times[WARM_UP:]
        if len(measured) >= LEAST and sum(measured) >= min(SHARE * left, MOST_SECONDS):
            break
    measured = times[WARM_UP:] or times
    step = MARGIN * sum(measured) / len(measured)
    steps = int((left - (time.monotonic() - begin)) / step)
    if steps < 1:
        raise ResourceError(
            "too little time to train",
            where="minutes",
            found=f"{max(left, 0.0):.1f} s for the training, of which a step takes {step:.2f} s",
            expected="time for one step at least",
            remedy="allow more --minutes, or choose a smaller recipe",
        )
    return min(steps, most)


def _seconds(trainer: Trainer, job: Job, start: TrainingState) -> Iterator[float]:
    last = time.monotonic()
    schedule = job.schedule or job.recipe.schedule
    for _ in trainer.run(job.samples, start, seed=job.seed, schedule=schedule, feeding=job.feeding):
        now = time.monotonic()
        yield now - last
        last = now


def must_be_frugal(job: Job, threads: int, start: TrainingState, limit: int) -> bool:
    """Whether the training keeps to ``limit`` bytes of memory only if onnxruntime gives memory back between operators.

    Both ways are tried in a child process.  A program has its batch built in, and its update follows the batch's
    gradient within one graph, so smaller batches that add up are no way out.
    Raises ResourceError, which says what the training would need, if neither fits.
    """
    state = sum(values.nbytes for values in start.tensors.values())
    needs: list[int] = []
    for frugal in (False, True):
        try:
            steps = rehearse(Scene(job.recipe, job.scope, threads, frugal)).memory
        except ResourceError:
            if frugal and not needs:
                raise
            continue
        needs.append(held_memory() + steps + STATES * state + SLACK)
        if needs[-1] <= limit:
            return frugal
    raise ResourceError(
        "the training needs more memory than it may have",
        where=f"recipe {job.recipe.name}",
        found=f"a limit of {limit / 1e6:.0f} MB",
        expected=f"at least {min(needs) / 1e6:.0f} MB",
        remedy="allow more, or take a smaller recipe or batch: fieldkit doctor BUNDLE says what each recipe needs",
    )
