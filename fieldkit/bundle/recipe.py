"""One model architecture with its programs, initial weights, schedule and augmentation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fieldkit.bundle.documents import Each, OneOf, Word

GENERATOR = "philox-1"
SCHEDULES = ("constant", "cosine", "one-cycle", "step", "listed")
LAWS = ("constant", "uniform", "normal")
UNLABELLED = "unlabelled"
"""Of a scope that trains the normalisations on images without labels, by the entropy of the predictions."""
SCOPES = ("full", "head", "norm-bias", UNLABELLED)
LAST = "last-"
"""Of a scope that trains the last so many blocks: last-1 to last-99."""
MAX_RANK = 16
"""Axes of a tensor."""
AVERAGE = "average"
"""Of the state that holds a parameter's moving average, ``average.<parameter>``, which is the model where it exists."""

# The forms of the documents that ``to_json`` below writes.
TENSOR_FORM = {"name": str, "shape": [int], "law": (Word(*LAWS), float)}
SCHEDULE_FORM = {
    "steps": int,
    "batch": int,
    "kind": Word(*SCHEDULES),
    "rate?": float,
    "warmup?": int,
    "rates?": [float],
    "milestones?": [int],
    "factor?": float,
}
AUGMENTATION_FORM = {
    "shift?": float,
    "scale?": float,
    "rotate?": float,
    "flip?": bool,
    "brightness?": float,
    "contrast?": float,
    "cutout?": float,
}
FORM = {
    "architecture": dict,
    "parameters": [TENSOR_FORM],
    "state": Each([TENSOR_FORM]),
    "schedule": SCHEDULE_FORM,
    "augmentation": AUGMENTATION_FORM,
    "initial": {"generator": str, "seed": OneOf(int, None)},
}


def is_scope(name: str) -> bool:
    """Whether a train program may be of this scope."""
    return name in SCOPES or re.fullmatch(f"{LAST}[1-9][0-9]?", name, re.ASCII) is not None


@dataclass(frozen=True)
class Tensor:
    """A parameter or a state of a train program, and the law that its first values follow.

    law: ("constant", value), ("uniform", bound) for U(-bound, bound), or ("normal", standard deviation).
    """

    name: str
    shape: tuple[int, ...]
    law: tuple[str, float]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "shape": list(self.shape), "law": list(self.law)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Tensor:
        law, value = document["law"]
        return cls(str(document["name"]), tuple(int(n) for n in document["shape"]), (str(law), float(value)))


@dataclass(frozen=True)
class Initial:
    """Where the initial weights come from.

    seed: an int fixes them for everyone ("init fixed"); None lets each training draw its own ("init random").
    weights: float16, by parameter name; empty when the generator makes them.
    """

    seed: int | None = None
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    generator: str = GENERATOR

    @property
    def fixed(self) -> bool:
        return self.seed is not None or bool(self.weights)


@dataclass(frozen=True)
class Schedule:
    """How long to train and at which learning rate.

    kind "constant", "cosine", "one-cycle" and "step" use ``rate`` (the peak) after ``warmup`` steps: a cosine falls to
    0; one cycle rises along a half cosine from a 25th of the peak, and falls along another to a 250,000th (Smith &
    Topin 2018, as torch.optim.lr_scheduler.OneCycleLR); steps multiply the rate by ``factor`` at each of
    ``milestones``.  The others warm up linearly.  kind "listed" uses ``rates``, one learning rate per step.
    """

    steps: int
    batch: int
    kind: str = "constant"
    rate: float = 0.0
    warmup: int = 0
    rates: tuple[float, ...] = ()
    milestones: tuple[int, ...] = ()
    factor: float = 0.1

    def learning_rate(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        if self.kind == "listed":
            return self.rates[step]
        if self.kind == "one-cycle":
            return self._cycle(step)
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        if self.kind == "constant":
            return self.rate
        if self.kind == "step":
            return float(self.rate * self.factor ** sum(step >= each for each in self.milestones))
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.rate * 0.5 * (1.0 + math.cos(math.pi * done))

    def _cycle(self, step: int) -> float:
        first, last = self.rate / 25.0, self.rate / 250_000.0
        if step < self.warmup:
            return _half_cosine(first, self.rate, step / self.warmup)
        return _half_cosine(self.rate, last, (step - self.warmup) / max(self.steps - 1 - self.warmup, 1))

    def with_steps(self, steps: int) -> Schedule:
        """The same schedule stretched or squeezed to ``steps`` steps."""
        if self.kind != "listed":
            share = steps / max(self.steps, 1)
            # A milestone at 0 would lower the rate before the first step.
            milestones = tuple(max(1, round(each * share)) for each in self.milestones)
            return replace(self, steps=steps, warmup=round(self.warmup * share), milestones=milestones)
        places = np.linspace(0.0, self.steps - 1, steps)
        rates = np.interp(places, np.arange(self.steps), self.rates)
        return replace(self, steps=steps, rates=tuple(float(rate) for rate in rates))

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"steps": self.steps, "batch": self.batch, "kind": self.kind}
        if self.kind == "listed":
            return document | {"rates": list(self.rates)}
        document |= {"rate": self.rate, "warmup": self.warmup}
        if self.kind == "step":
            document |= {"milestones": list(self.milestones), "factor": self.factor}
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Schedule:
        return cls(
            int(document["steps"]),
            int(document["batch"]),
            str(document["kind"]),
            float(document.get("rate", 0.0)),
            int(document.get("warmup", 0)),
            tuple(float(rate) for rate in document.get("rates", ())),
            tuple(int(each) for each in document.get("milestones", ())),
            float(document.get("factor", 0.1)),
        )


def _half_cosine(start: float, end: float, done: float) -> float:
    """From ``start`` to ``end`` as ``done`` goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the random changes that a train program makes to each image; 0 turns one off.

    shift: largest translation, as a fraction of height and width.  scale: largest relative zoom (0.2: 1/1.2-1.2).
    rotate: largest rotation in degrees.  flip: mirror left-right half of the time.
    brightness: largest offset, contrast: largest relative change, both on normalised pixels.
    cutout: side of the erased square, as a fraction of the image's side.

    The strengths are constants inside the program; the host only draws the uniforms it reads.
    """

    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    flip: bool = False
    brightness: float = 0.0
    contrast: float = 0.0
    cutout: float = 0.0

    @property
    def width(self) -> int:
        """How many uniform randoms one image takes: the A of the program's ``aug`` input (B, A)."""
        spatial = 2 * (self.shift > 0) + (self.scale > 0) + (self.rotate > 0) + bool(self.flip)
        return spatial + (self.brightness > 0) + (self.contrast > 0) + 2 * (self.cutout > 0)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Augmentation:
        return cls(**{str(name): value for name, value in document.items()})


@dataclass(frozen=True)
class Recipe:
    """Everything a device needs to train and run one architecture.

    architecture: what HQ built, for people: {"name": "convnet", "width": 32, ...}.
    parameters: the model's tensors in the order of the programs: what training changes, and the statistics that it
    carries along (a batch normalisation's).  Their names carry no prefix here.
    state: optimiser and other carried tensors, per train program scope.
    programs: ONNX bytes: "predict", "train/full", ...  ``predict`` has no weights inside (docs/program.md).
    """

    name: str
    architecture: Mapping[str, Any]
    parameters: tuple[Tensor, ...]
    state: Mapping[str, tuple[Tensor, ...]]
    programs: Mapping[str, bytes]
    schedule: Schedule
    augmentation: Augmentation = Augmentation()
    initial: Initial = field(default_factory=Initial)

    @property
    def size(self) -> int:
        """Number of values in the model."""
        return sum(parameter.size for parameter in self.parameters)

    def with_training(self, schedule: Schedule, initial: Initial) -> Recipe:
        """The same compiled recipe with another schedule and other initial weights."""
        return replace(self, schedule=schedule, initial=initial)

    def to_json(self) -> dict[str, Any]:
        """All but the programs and the stored weights, which are datasets of their own."""
        return {
            "architecture": dict(self.architecture),
            "parameters": [tensor.to_json() for tensor in self.parameters],
            "state": {scope: [tensor.to_json() for tensor in tensors] for scope, tensors in self.state.items()},
            "schedule": self.schedule.to_json(),
            "augmentation": self.augmentation.to_json(),
            "initial": {"generator": self.initial.generator, "seed": self.initial.seed},
        }

    @classmethod
    def from_json(
        cls,
        name: str,
        document: Mapping[str, Any],
        programs: Mapping[str, bytes],
        weights: Mapping[str, np.ndarray],
    ) -> Recipe:
        initial = document["initial"]
        seed = initial["seed"]
        return cls(
            name=name,
            architecture=dict(document["architecture"]),
            parameters=tuple(Tensor.from_json(each) for each in document["parameters"]),
            state={
                str(scope): tuple(Tensor.from_json(each) for each in tensors)
                for scope, tensors in document["state"].items()
            },
            programs=dict(programs),
            schedule=Schedule.from_json(document["schedule"]),
            augmentation=Augmentation.from_json(document["augmentation"]),
            initial=Initial(None if seed is None else int(seed), dict(weights), str(initial["generator"])),
        )
