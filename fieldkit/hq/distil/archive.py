"""Experts kept on disk, so that they are trained once: for a resumed run, another IPC, another seed of the set.

The folder ``Problem.cache`` has a folder for each kind of expert, named by the digest of all that decides them
(``about.json`` says it in words), and in it one for each expert:

    experts-<digest>/about.json
    experts-<digest>/007/last.pt         float32 weights and momentum after the last epoch: what lessons go on from
    experts-<digest>/007/epoch-012.npy   float16 [p]: all trained weights after an epoch, if trajectories are kept

Every file is written atomically after the epoch that it belongs to, so a stopped job loses one epoch at most.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
import signal
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import joblib
import numpy as np
import torch

from fieldkit.bundle.atomic import write_atomically
from fieldkit.errors import Diverged, UsageError
from fieldkit.field.engine.heap import keep_memory
from fieldkit.hq.distil.experts import Expert, Lessons
from fieldkit.hq.distil.problem import Problem, State, Weights, silent
from fieldkit.hq.distil.workers import Workers
from fieldkit.hq.models.laws import carried_buffers

LAST = "last.pt"
DIGITS = 16


class Archive:
    """The first ``count`` experts of a problem under these lessons, trained when they are asked for.

    trajectories: keep the weights of every epoch.  Without ``problem.cache`` the folder is a temporary one.
    """

    def __init__(self, problem: Problem, lessons: Lessons, count: int, *, trajectories: bool = False) -> None:
        self.problem = problem
        self.lessons = lessons
        self.count = count
        self.trajectories = trajectories
        self._ready = 0
        about = described(problem, lessons)
        if problem.cache is None:
            self.folder = Path(tempfile.mkdtemp(prefix="fieldkit-experts-"))
            self._end = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        else:
            digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
            self.folder = problem.cache / f"experts-{digest[:DIGITS]}"
        _make(self.folder)
        write_atomically(self.folder / "about.json", json.dumps(about, indent=1, sort_keys=True).encode())

    def provide(self, wanted: int, report: Callable[[int, int], None] = lambda ready, count: None) -> None:
        """Train until there are ``wanted`` experts: as many at a time as there are workers, and processors for them.

        report: called with how many there are, and how many there will be.  All workers call this alike.  Where hosts
        share no folder, each trains all experts.
        """
        workers = self.problem.workers
        together = workers.size * workers.told(self._processes)
        while self._ready < min(wanted, self.count):
            seeds = range(self._ready, min(self._ready + together, self.count))
            self._train(self._missing(workers.mine(seeds)))
            # A sum over all workers ends when the last of them has come so far.
            workers.total(torch.zeros(1, device=self.problem.device))
            self._train(self._missing(seeds))
            self._ready = seeds[-1] + 1
            report(self._ready, self.count)

    def weights(self, seed: int) -> Weights:
        """What an expert knows after its last lesson, running statistics included: float32."""
        weights = _read(self.problem, self._folder(seed) / LAST)["weights"]
        return {name: each.detach() for name, each in weights.items()}

    def snapshot(self, seed: int, epoch: int) -> Weights:
        """An expert's trained weights after an epoch, 0 being its first weights: float32, kept as float16."""
        path = self._folder(seed) / _name(epoch)
        shapes = {each.name: each.shape for each in self.problem.parameters}
        try:
            values = torch.from_numpy(np.load(path, allow_pickle=False)).float().to(self.problem.device)
            parts = torch.split(values, [int(np.prod(shape)) for shape in shapes.values()])
        except (OSError, ValueError, RuntimeError) as error:
            raise _damaged(path, error) from error
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def _folder(self, seed: int) -> Path:
        return self.folder / f"{seed:03d}"

    def _processes(self) -> int:
        """Experts that this worker trains at a time: a small network gains more by a processor each."""
        return torch.get_num_threads() if torch.device(self.problem.device).type == "cpu" else 1

    def _missing(self, seeds: Sequence[int]) -> list[int]:
        return [seed for seed in seeds if not self._complete(seed)]

    def _complete(self, seed: int) -> bool:
        path = self._folder(seed) / LAST
        if not path.is_file() or _read(self.problem, path)["epoch"] < self.lessons.epochs:
            return False
        return not self.trajectories or all(
            (self._folder(seed) / _name(epoch)).is_file() for epoch in range(self.lessons.epochs + 1)
        )

    def _train(self, seeds: list[int]) -> None:
        # What a process is sent holds no callable of this one.
        problem = replace(self.problem, note=silent, workers=Workers())
        jobs = [(problem, self.lessons, seed, self._folder(seed), self.trajectories) for seed in seeds]
        processes = min(len(jobs), self._processes())
        if processes < 2:
            for job in jobs:
                train(*job)
            return
        with joblib.parallel_config("loky", n_jobs=processes, inner_max_num_threads=1):
            joblib.Parallel()(joblib.delayed(_train_alone)(*job) for job in jobs)


def described(problem: Problem, lessons: Lessons) -> dict[str, object]:
    """All that decides an expert but its own seed, in plain words and numbers."""
    return {
        "data": problem.real.digest(),
        "model": repr(problem.module),
        "parameters": [[each.name, list(each.shape), list(each.law)] for each in problem.parameters],
        "normalise": [problem.normalise.mean.flatten().tolist(), problem.normalise.gain.flatten().tolist()],
        "first_weights": problem.initial.seed,
        "augmentation": asdict(problem.augmentation),
        "lessons": asdict(lessons),
        "seed": problem.seed,
        "precision": problem.precision,
        "device": torch.device(problem.device).type,
        "torch": torch.__version__,
    }


def train(problem: Problem, lessons: Lessons, seed: int, folder: Path, trajectories: bool) -> None:
    """Train one expert into its folder, from wherever its lessons stopped."""
    expert = Expert(problem, lessons, seed)
    _make(folder)
    if (folder / LAST).is_file() and not (trajectories and not (folder / _name(0)).is_file()):
        expert.restore(_read(problem, folder / LAST))
    elif trajectories:
        _keep(expert, folder)
    while expert.epoch < lessons.epochs:
        expert.learn()
        if trajectories:
            _keep(expert, folder)
        file = io.BytesIO()
        torch.save(expert.state(), file)
        write_atomically(folder / LAST, file.getvalue())


def _train_alone(problem: Problem, lessons: Lessons, seed: int, folder: Path, trajectories: bool) -> None:
    """The same in a process of its own, which leaves Ctrl-C to the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_memory()
    train(problem, lessons, seed, folder, trajectories)


def _keep(expert: Expert, folder: Path) -> None:
    weights = expert.weights()
    values = torch.cat([weights[each.name].flatten() for each in expert.problem.parameters]).cpu().numpy()
    if np.abs(values).max() > np.finfo(np.float16).max:
        raise Diverged(
            "an expert's weights are too large to be kept",
            where=f"expert {expert.seed}",
            found=f"{np.abs(values).max():.3g}",
            expected=f"at most {np.finfo(np.float16).max}",
            remedy="choose a smaller learning rate for the experts",
        )
    file = io.BytesIO()
    np.save(file, values.astype(np.float16), allow_pickle=False)
    write_atomically(folder / _name(expert.epoch), file.getvalue())


def _name(epoch: int) -> str:
    return f"epoch-{epoch:03d}.npy"


def _read(problem: Problem, path: Path) -> State:
    """The state of an expert of this problem, on the problem's device."""
    shapes = {each.name: each.shape for each in (*problem.parameters, *carried_buffers(problem.module))}
    try:
        stored: State = torch.load(path, weights_only=True, map_location=problem.device)
        found = {name: tuple(each.shape) for name, each in stored["weights"].items()}
        if found != shapes or not isinstance(stored["epoch"], int) or "optimiser" not in stored:
            raise ValueError("an expert of another network")
    except (
        AttributeError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
    ) as error:
        raise _damaged(path, error) from error
    return stored


def _damaged(path: Path, error: Exception) -> UsageError:
    remedy = f"remove the folder {path.parent}: the expert is trained anew"
    return UsageError("an expert's file is damaged", where=path, found=type(error).__name__, remedy=remedy)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot keep experts there: {error.strerror}", where=folder) from error
