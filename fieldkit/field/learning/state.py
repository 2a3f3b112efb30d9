"""The state file of a device that keeps learning: its model, its memory, and what it has learnt so far.

It stands on its own: the recipe's programs and the model's weights are in it, and of each task the probe on which
every later model is measured.  The bytes are those of ``container.py``; the parts are checked against each other when
they are read.  A state that holds anything of an encrypted bundle is closed with the device's key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fieldkit.bundle import documents, manifest, recipe
from fieldkit.bundle.atomic import write_atomically
from fieldkit.bundle.documents import OneOf, Word
from fieldkit.bundle.files import read_bytes
from fieldkit.bundle.manifest import Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import PIXEL_DTYPES
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.samples import Samples
from fieldkit.errors import DamagedBundle, ResourceError, UsageError
from fieldkit.field.learning import container
from fieldkit.field.learning.memory import KINDS, Memory, Part
from fieldkit.field.trust.verification import Sealer

if TYPE_CHECKING:
    from fieldkit.bundle.keys import Passphrase

MAGIC = b"fklearn\x01"
CLOSED = b"fkclosed"
"""What the bytes of a ``DeviceSealer`` begin with."""
PURPOSE = "the state of continual learning"
"""In the place of a bundle's digest: a state holds something of many."""
MAX_BYTES = 1 << 31
_PART = {"kind": Word(*KINDS), "source": str}
_TASK = {
    "kind": Word(*KINDS),
    "source": str,
    "digest": str,
    "serial": int,
    "slots": [int],
    "scores": [OneOf(float, None)],
}
_FORM = {
    "manifest": manifest.FORM,
    "bundle": str,
    "recipe": recipe.FORM,
    "name": str,
    "limit": int,
    "seed": int,
    "steps": int,
    "spared": bool,
    "parts": [_PART],
    "tasks": [_TASK],
}


@dataclass(frozen=True)
class Task:
    """Something that was learnt.

    kind: "distilled", from a bundle, or "own", from the device's own samples.  source: the bundle's or data's name.
    digest: of the bundle, or of the samples.  serial: the bundle's.
    slots: of the classes that it showed, ascending.
    probe: native counts and slots as targets, of images that no training sees; None where there are none.
    scores: accuracy on the probe, 0-1, when it had been learnt and after each later task; None without a probe.
    """

    kind: str
    source: str
    digest: str
    serial: int
    slots: tuple[int, ...]
    probe: Samples | None = None
    scores: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class State:
    """What ``fieldkit learn`` goes on from.

    manifest: the first bundle's, with ``classes`` as far as they are in use, in the order of the model's outputs, and
    as many ``spare_classes`` as are left.  bundle: the first bundle's digest.
    weights: float32 by parameter name; the recipe's first weights before the first task.
    seed, steps: of the last training.
    """

    manifest: Manifest
    bundle: str
    recipe: Recipe
    weights: Mapping[str, np.ndarray]
    memory: Memory
    tasks: tuple[Task, ...] = ()
    seed: int = 0
    steps: int = 0
    spared: bool = field(default=False)
    """Whether the recipe was built with spare classes, so that its predict program asks how many are in use."""

    @property
    def width(self) -> int:
        """How many of the model's outputs are in use."""
        return len(self.manifest.classes)

    @property
    def probe_bytes(self) -> int:
        """Bytes of the images that only measure."""
        return sum(each.probe.images.nbytes for each in self.tasks if each.probe is not None)

    def probe(self) -> Samples | None:
        """The probes of all tasks together; None if there is none."""
        held = [each.probe for each in self.tasks if each.probe is not None]
        if not held:
            return None
        return Samples(np.concatenate([each.images for each in held]), np.concatenate([each.targets for each in held]))

    def slots(self, names: tuple[str, ...], where: object) -> tuple[State, np.ndarray]:
        """The slots of classes of these names, int64 [k], and the state in which the new ones have taken spare slots.

        Raises UsageError if there are not enough spare slots.
        """
        known = self.manifest.classes
        new = tuple(name for name in names if name not in known)
        if len(new) > self.manifest.spare_classes:
            raise UsageError(
                "there are more new classes than spare ones",
                where=where,
                found=f"{', '.join(new[:5])}{', ...' if len(new) > 5 else ''} ({len(new)} in all)",
                expected=f"at most {self.manifest.spare_classes}",
                remedy="begin a new STATE from a bundle that was built with more --spare-classes",
            )
        taken = replace(self.manifest, classes=known + new, spare_classes=self.manifest.spare_classes - len(new))
        slots = np.array([taken.classes.index(name) for name in names], np.int64)
        return replace(self, manifest=taken), slots


def encode(state: State) -> bytes:
    """The state file's bytes: the same state gives the same bytes."""
    about = {
        "manifest": state.manifest.to_json(),
        "bundle": state.bundle,
        "recipe": state.recipe.to_json(),
        "name": state.recipe.name,
        "limit": state.memory.limit,
        "seed": state.seed,
        "steps": state.steps,
        "spared": state.spared,
        "parts": [{"kind": each.kind, "source": each.source} for each in state.memory.parts],
        "tasks": [
            {name: value for name, value in vars(each).items() if name in _TASK} | {"slots": list(each.slots)}
            for each in state.tasks
        ],
    }
    return container.pack(MAGIC, about, dict(_arrays(state)))


def decode(content: bytes, where: object) -> State:
    """The state in the bytes of a file.  Raises DamagedBundle for anything else."""
    about, arrays = container.unpack(content, MAGIC, where)
    faults = list(documents.faults(about, _FORM, "header"))
    if not faults:
        try:
            state = _assembled(about, arrays)
            faults = list(_faults(state))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, ResourceError) as error:
            raise DamagedBundle("the parts do not fit together", where=where, found=str(error)[:100]) from error
    if faults:
        raise DamagedBundle("the parts do not fit together: " + "; ".join(faults), where=where)
    return state


def is_closed(path: str | Path) -> bool:
    """Whether there is a state in the file that only this device's sealer opens."""
    try:
        with open(path, "rb") as file:
            return file.read(len(CLOSED)) == CLOSED
    except OSError:
        return False


def read_state(path: str | Path, sealer: Sealer | None = None) -> State:
    """The state in a file.  ``sealer`` opens one that is closed; see ``device_sealer``.

    Raises UsageError if there is no such file, DamagedBundle for anything wrong in its bytes.
    """
    content = read_bytes(path, MAX_BYTES, "state")
    return decode(sealer.open(content) if sealer is not None and content.startswith(CLOSED) else content, path)


def write_state(path: str | Path, state: State, sealer: Sealer | None = None) -> int:
    """Write the state to a file, whole or not at all, and return its bytes.  ``sealer`` closes it.

    Raises UsageError or ResourceError where it cannot be written.
    """
    content = closed(state, sealer)
    write_atomically(path, content)
    return len(content)


def closed(state: State, sealer: Sealer | None) -> bytes:
    """The bytes of a state file, closed by ``sealer`` if there is one."""
    content = encode(state)
    return content if sealer is None else sealer.close(content)


def device_sealer(key: str | Path | None, passphrase: Passphrase | None) -> Sealer:
    """What closes and opens the states of this device, whatever bundles they come from.

    key, passphrase: as for ``admission.open_bundle``.  Raises UsageError or TrustError where there is no such key.
    """
    from fieldkit.bundle.encryption import DeviceSealer
    from fieldkit.field.trust.policy import TrustStore

    return DeviceSealer(TrustStore().private_key(key, passphrase), PURPOSE)


def _arrays(state: State) -> Iterator[tuple[str, np.ndarray]]:
    for name, program in state.recipe.programs.items():
        yield f"program/{name}", np.frombuffer(program, np.uint8)
    for name, values in state.recipe.initial.weights.items():
        yield f"first/{name}", values
    for name, values in state.weights.items():
        yield f"weight/{name}", values
    for index, part in enumerate(state.memory.parts):
        place = f"part/{index}"
        yield f"{place}/codes", part.pixels.codes
        yield f"{place}/scale", part.pixels.scale
        yield f"{place}/offset", part.pixels.offset
        yield f"{place}/classes", part.classes
        yield f"{place}/ranks", part.ranks
        for name in ("labels", "answers"):
            said = getattr(part, name)
            if said is not None:
                yield f"{place}/{name}", said
    for index, task in enumerate(state.tasks):
        if task.probe is not None:
            yield f"task/{index}/images", task.probe.images
            yield f"task/{index}/targets", task.probe.targets


def _assembled(about: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> State:
    """The state of a header that has its form; takes what it uses out of ``arrays``, of which none may be left."""

    def below(folder: str) -> dict[str, np.ndarray]:
        names = [name for name in arrays if name.startswith(f"{folder}/")]
        return {name.removeprefix(f"{folder}/"): arrays.pop(name) for name in names}

    programs = {name: values.tobytes() for name, values in below("program").items()}
    chosen = Recipe.from_json(about["name"], about["recipe"], programs, below("first"))
    parts = tuple(_part(each, below(f"part/{index}")) for index, each in enumerate(about["parts"]))
    tasks = tuple(_task(each, below(f"task/{index}")) for index, each in enumerate(about["tasks"]))
    state = State(
        Manifest.from_json(about["manifest"]),
        about["bundle"],
        chosen,
        below("weight"),
        Memory(about["limit"], parts),
        tasks,
        about["seed"],
        about["steps"],
        about["spared"],
    )
    if arrays:
        raise ValueError(f"unknown arrays {', '.join(sorted(arrays)[:5])}")
    return state


def _part(about: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Part:
    pixels = Pixels(arrays.pop("codes"), arrays.pop("scale"), arrays.pop("offset"))
    return Part(about["kind"], about["source"], pixels, **arrays)


def _task(about: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> Task:
    probe = Samples(**arrays) if arrays else None
    told = dict(about) | {name: tuple(about[name]) for name in ("slots", "scores")}
    return Task(**told, probe=probe)


def _faults(state: State) -> Iterator[str]:
    """Everything in a state that contradicts something else in it, one sentence each."""
    shapes = {each.name: each.shape for each in state.recipe.parameters}
    if {name: each.shape for name, each in state.weights.items()} != shapes:
        yield "weights: names or shapes are not the recipe's"
    if any(each.dtype != np.float32 or not np.isfinite(each).all() for each in state.weights.values()):
        yield "weights: expected finite float32"
    bands, height, width = state.manifest.input_shape
    for index, part in enumerate(state.memory.parts):
        place, codes, count = f"part {index}", part.pixels.codes, len(part.classes)
        if codes.ndim != 4 or codes.shape[1] != bands or codes.shape[2] > height or codes.shape[3] > width:
            yield f"{place}: images of shape {codes.shape}"
        if codes.dtype.name not in PIXEL_DTYPES or {part.pixels.scale.shape, part.pixels.offset.shape} != {(bands,)}:
            yield f"{place}: pixels, scale or offset of another kind"
        if part.classes.dtype != np.uint16 or not count or part.classes.max() >= state.width:
            yield f"{place}: classes that are not in use"
        if (len(codes), part.ranks.shape) != (count, (count,)) or part.ranks.dtype != np.float64:
            yield f"{place}: not a rank for each image"
        for said in (part.labels, part.answers):
            if said is not None and (said.ndim != 2 or len(said) != count or said.shape[1] > state.width):
                yield f"{place}: labels of shape {said.shape}"
    for index, task in enumerate(state.tasks):
        if not all(0 <= slot < state.width for slot in task.slots) or len(task.scores) != len(state.tasks) - index:
            yield f"task {index}: slots or scores that cannot be"
        if task.probe is not None and not _probe_fits(task.probe, state):
            yield f"task {index}: a probe of another kind"


def _probe_fits(probe: Samples, state: State) -> bool:
    images, targets = probe.images, probe.targets
    return (
        images.shape[1:] == state.manifest.input_shape
        and images.dtype.name == state.manifest.radiometry.dtype
        and targets.shape == images.shape[:1]
        and targets.dtype == np.int64
        and len(targets) > 0
        and 0 <= int(targets.min()) <= int(targets.max()) < state.width
    )
