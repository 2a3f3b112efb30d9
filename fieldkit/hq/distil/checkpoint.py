"""Where a distillation stands: what a run carries along, and the file from which a stopped one goes on."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fieldkit.bundle.atomic import write_atomically
from fieldkit.bundle.recipe import Schedule
from fieldkit.errors import ResourceError, UsageError
from fieldkit.hq.distil.problem import Distillation, Snapshot, State
from fieldkit.hq.distil.workers import Workers

ALONE = Workers()


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
