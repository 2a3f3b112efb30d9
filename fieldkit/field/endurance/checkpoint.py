"""A training's state on disk: what a power cut leaves, and a resumed training starts from.

One file is one generation, whole or not there, with a checksum over all of it:

    offset    bytes
    0         8      magic, ``fkstate`` and the format's version, 1
    8         32     SHA-256 of everything after it
    40        8      length of the header, little-endian
    48        n      the header: canonical JSON (``_FORM`` below)
    48 + n    ...    the losses, then each tensor in the header's order: float32, little-endian

Nothing in it is code, and a file that differs in one bit is refused.  The whole of it may be closed by a sealer.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle import documents
from fieldkit.bundle.atomic import explained, explaining, sync_folder, writing_atomically
from fieldkit.errors import DamagedBundle, FieldkitError, UsageError
from fieldkit.field.engine.training import TrainingState
from fieldkit.field.trust.admission import Sealer

MAGIC = b"fkstate\x01"
DIGEST = 32
LENGTH = 8
HEAD = len(MAGIC) + DIGEST + LENGTH
GENERATIONS = 2
KEY = 16
"""Hex digits of a job's digest in the names of its files."""
RESULT = "result"
"""What a training's result is called until it is whole."""
_FORM = {
    "job": dict,
    "decided": {"threads": int, "steps": int},
    "step": int,
    "losses": int,
    "tensors": [{"name": str, "shape": [int]}],
}


@dataclass(frozen=True)
class Snapshot:
    """A training between two steps.

    job: what decides the training's result, as JSON; a state of another job is never gone on from.
    losses: float32 [step], of the steps that were made.
    decided: what the run found out and keeps when it goes on: its ``threads``, and how many ``steps`` it makes in all.
    """

    job: Mapping[str, Any]
    state: TrainingState
    losses: np.ndarray
    decided: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytearray:
        """The bytes of one generation; the tensors are copied, so that the training may go on."""
        arrays = [self.losses, *self.state.tensors.values()]
        tensors = [{"name": name, "shape": list(each.shape)} for name, each in self.state.tensors.items()]
        header = documents.encode(
            {
                "job": dict(self.job),
                "decided": dict(self.decided),
                "step": self.state.step,
                "losses": len(self.losses),
                "tensors": tensors,
            }
        )
        start = HEAD + len(header)
        content = bytearray(start + sum(4 * each.size for each in arrays))
        content[: len(MAGIC)] = MAGIC
        content[HEAD - LENGTH : HEAD] = len(header).to_bytes(LENGTH, "little")
        content[HEAD:start] = header
        values = np.frombuffer(content, "<f4", offset=start) if len(content) > start else np.zeros(0, "<f4")
        at = 0
        for each in arrays:
            values[at : at + each.size] = each.reshape(-1)
            at += each.size
        content[len(MAGIC) : len(MAGIC) + DIGEST] = _digest(content)
        return content

    @classmethod
    def decode(cls, content: bytes, where: object) -> Snapshot:
        """The snapshot in the bytes of one generation.  Raises DamagedBundle for anything else."""
        if content[: len(MAGIC)] != MAGIC or len(content) < HEAD:
            raise DamagedBundle("not a training state", where=where)
        if _digest(content) != content[len(MAGIC) : len(MAGIC) + DIGEST]:
            raise DamagedBundle("a damaged training state", where=where, found="another checksum than its own")
        start = HEAD + int.from_bytes(content[HEAD - LENGTH : HEAD], "little")
        header = documents.decode(content[HEAD:start], f"{where}: header")
        faults = list(documents.faults(header, _FORM, "header"))
        if faults:
            raise DamagedBundle("; ".join(faults), where=where)
        shapes = {each["name"]: tuple(each["shape"]) for each in header["tensors"]}
        sizes = [header["losses"], *(math.prod(shape) for shape in shapes.values())]
        if len(content) != start + 4 * sum(sizes) or min(sizes) < 0 or len(shapes) != len(header["tensors"]):
            raise DamagedBundle("a training state whose header does not fit its length", where=where)
        values = np.frombuffer(content, "<f4", offset=start) if len(content) > start else np.zeros(0, "<f4")
        parts = np.split(values, np.cumsum(sizes)[:-1])
        tensors = {name: each.reshape(shape) for (name, shape), each in zip(shapes.items(), parts[1:], strict=True)}
        return cls(header["job"], TrainingState(tensors, header["step"]), parts[0], header["decided"])


class Checkpoints:
    """The states of trainings in one folder, two generations for each job.

    A job's files are named by the digest of its description, so one job never overwrites another's.  A generation is
    written beside the last good one, never over it.

    Raises UsageError if the folder cannot be made, ResourceError if the disk is full.
    """

    def __init__(self, folder: Path, sealer: Sealer | None = None) -> None:
        self.folder = folder
        self.sealer = sealer
        self._good: Path | None = None
        try:
            folder.mkdir(exist_ok=True)
            self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, folder) from error

    def lock(self) -> None:
        """Keep other processes out until ``close``.  Raises UsageError if one is in already."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise UsageError(
                "another fieldkit is at work on this output",
                where=self.folder,
                remedy="wait for it, or write elsewhere",
            ) from error
        except OSError:
            # Some network file systems know no locks; two runs of one job then write the same bytes.
            return
        for part in self.folder.glob("*.part"):
            # What a kill in the middle of a save left.
            with suppress(OSError):
                part.unlink()

    def close(self) -> None:
        """Unlock the folder; what is in it stays, and an empty one goes."""
        with suppress(OSError):
            self.folder.rmdir()
        os.close(self._lock)

    def newest(self, job: Mapping[str, Any]) -> tuple[Snapshot | None, list[str]]:
        """The last good generation of ``job``, and what was wrong with each that could not be used."""
        found, faults = [], []
        for path in self._generations(job):
            try:
                snapshot = self._read(path)
            except FieldkitError as error:
                faults.append(str(error).splitlines()[0])
                continue
            if snapshot is None:
                continue
            if documents.encode(dict(snapshot.job)) == documents.encode(dict(job)):
                found.append((snapshot.state.step, path, snapshot))
        if not found:
            return None, faults
        _, self._good, newest = max(found, key=lambda each: each[0])
        return newest, faults

    def save(self, snapshot: Snapshot) -> None:
        """Write the next generation: whole, or not at all.  Raises UsageError or ResourceError."""
        first, second = self._generations(snapshot.job)
        path = second if self._good == first else first
        content = snapshot.encode()
        self.write(path, content if self.sealer is None else self.sealer.close(bytes(content)))
        self._good = path

    def write(self, path: Path, content: bytes | bytearray, mode: int | None = None) -> None:
        """Write a file by way of this folder, so that a kill leaves nothing half-written anywhere else.

        path: in this folder or the one that it is in.  mode: the file's permissions, None for the usual ones.
        """
        with suppress(OSError):
            self.folder.mkdir(exist_ok=True)
        inside = path if path.parent == self.folder else self.folder / RESULT
        with writing_atomically(inside, mode) as file, explaining(path):
            file.write(content)
        if inside != path:
            with explaining(path):
                inside.replace(path)
                sync_folder(path.parent)

    @property
    def kept(self) -> bool:
        """Whether a good state is in the folder."""
        return self._good is not None

    def others(self, job: Mapping[str, Any]) -> list[Path]:
        """The files of other jobs in the folder."""
        mine = set(self._generations(job))
        return sorted(path for path in self.folder.glob("*-[01]") if path not in mine)

    def describe(self, path: Path) -> Mapping[str, Any]:
        """The job of one file; empty where it cannot be read."""
        try:
            snapshot = self._read(path)
        except FieldkitError:
            return {}
        return {} if snapshot is None else snapshot.job

    def forget(self, job: Mapping[str, Any]) -> None:
        """Remove the generations of ``job``."""
        for path in self._generations(job):
            with suppress(OSError):
                path.unlink()
        self._good = None

    def remove(self) -> None:
        """Remove the folder and all states in it."""
        with suppress(OSError):
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()

    def _generations(self, job: Mapping[str, Any]) -> list[Path]:
        key = hashlib.sha256(documents.encode(dict(job))).hexdigest()[:KEY]
        return [self.folder / f"{key}-{generation}" for generation in range(GENERATIONS)]

    def _read(self, path: Path) -> Snapshot | None:
        """The snapshot in a file; None where there is no file."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explained(error, path) from error
        return Snapshot.decode(content if self.sealer is None else self.sealer.open(content), path)


def state_folder(output: Path) -> Path:
    """Where the state of a training is kept that will write ``output``: beside it, hidden."""
    real = Path(os.path.realpath(output))
    return real.parent / f".{real.name}.state"


def _digest(content: bytes | bytearray) -> bytes:
    return hashlib.sha256(memoryview(content)[len(MAGIC) + DIGEST :]).digest()
