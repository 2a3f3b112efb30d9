"""What a method is given, and what it gives back.

A method is only mathematics: it reads a ``Problem`` and makes one iteration at a time.  The driver (driver.py) owns
time, checkpoints, selection and progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from fieldkit.bundle.recipe import Augmentation, Initial, Schedule, Tensor
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import initial_weights
from fieldkit.hq.compiler.optimisers import Optimiser, Sgd
from fieldkit.hq.distil.workers import Workers
from fieldkit.hq.models.features import features_of
from fieldkit.hq.models.laws import parameter_tensors
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.tasks import classification

Weights: TypeAlias = dict[str, torch.Tensor]
State: TypeAlias = dict[str, Any]
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Snapshot:
    """A distilled set as it stands after some iterations.

    images: float32 [n, c, h, w] in native counts, as large as they are stored.  labels: float32 [n, k], rows sum to 1.
    schedule: the training schedule that the method has learnt, or None for the recipe's own.
    """

    images: np.ndarray
    labels: np.ndarray
    schedule: Schedule | None = None


@dataclass(frozen=True)
class Earlier:
    """The distilled sets of earlier tasks, beside which a set is to be learnt.

    pixels: normalised float32 [n, c, h, w] at the input's size.  labels: float32 [n, k] over the k earlier classes.
    module: the problem's architecture with outputs for the earlier classes, which come first, and for its own.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    module: nn.Module

    @property
    def class_count(self) -> int:
        return self.labels.shape[1]


def suited(pixels: torch.Tensor, precision: str) -> torch.Tensor:
    """Images laid out as the processor wants them: by channels last for the tensor cores of a GPU, which take products
    of 16 bits so; convolutions pass it on.  On a CPU it costs more than it gains.
    """
    by_channels = pixels.is_cuda and precision != PRECISIONS[0]
    return pixels.contiguous(memory_format=torch.channels_last) if by_channels else pixels


def silent(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Problem:
    """The frozen task that a method solves.

    real: the training images, uint8 | uint16 [n, c, h, w], and int64 [n] labels; neither probe nor held-out split.
    module: the architecture, whose own weights are never used: methods pass weights in.
    normalise: native counts to normalised pixels.
    ipc: distilled images per class, in the storage of whole ones.  class_count: number of classes.
    formation: how many distilled images stand side by side in the storage of one, along each axis: 1 stores whole
    images, 2 four times as many at half the height and width (IDC's multi-formation; ``fieldkit.bundle.enlarging``).
    schedule: what the recipe trains with.  optimiser: inside its train program.
    initial: fixed or random initial weights.  augmentation: what the recipe trains with.
    levels: how many values a stored pixel can take.
    device: where torch computes; ``module`` and ``normalise`` are there already.
    start: where pixels start, one of ``images.STARTS``; None leaves it to the method.
    labels: "hard" or "learned" ones; None leaves it to the method.  Those of teachers come afterwards (labels.py).
    precision: of convolutions and matrix products, one of ``PRECISIONS``; weights and sums keep float32.
    earlier: the sets of earlier tasks, none of whose classes is one of these; None where there are none.
    workers: the processes that share the work.
    cache: a folder, for this architecture alone, for what is dear to make and can be made anew; None keeps nothing.
    note: told, in a line, what goes on beside iterations.
    """

    real: Samples
    module: nn.Module
    normalise: Normalise
    ipc: int
    class_count: int
    schedule: Schedule
    optimiser: Optimiser = field(default_factory=Sgd)
    initial: Initial = field(default_factory=Initial)
    augmentation: Augmentation = field(default_factory=Augmentation)
    levels: int = 256
    seed: int = 0
    device: str = "cpu"
    formation: int = 1
    start: str | None = None
    labels: str | None = None
    precision: str = PRECISIONS[0]
    earlier: Earlier | None = None
    workers: Workers = field(default_factory=Workers)
    cache: Path | None = None
    note: Callable[[str], None] = silent

    @property
    def per_class(self) -> int:
        """Distilled images of each class, whatever size they are stored at."""
        return self.ipc * self.formation**2

    @cached_property
    def parameters(self) -> tuple[Tensor, ...]:
        return parameter_tensors(self.module)

    @cached_property
    def groups(self) -> tuple[np.ndarray, ...]:
        """Positions of each class's real samples."""
        return classification.group(self.real.targets, self.class_count)

    @property
    def targets(self) -> np.ndarray:
        """Classes of the distilled images, int64 [per_class * k]: class 0 first."""
        return np.repeat(np.arange(self.class_count), self.per_class)

    def reduced(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels float32 [n, c, h, w] at the size at which distilled images are stored: means over areas."""
        height, width = pixels.shape[2:]
        if self.formation == 1:
            return pixels
        return functional.adaptive_avg_pool2d(pixels, (height // self.formation, width // self.formation))

    def enlarged(self, pixels: torch.Tensor) -> torch.Tensor:
        """Distilled pixels float32 [n, c, h / formation, w / formation] at the input's size, as a device enlarges."""
        if self.formation == 1:
            return pixels
        size = self.real.images.shape[2:]
        return functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)

    def fresh_model(self, seed: int) -> Weights:
        """First weights as the device draws them; the bundle's own if ``initial`` is fixed."""
        values = initial_weights(self.parameters, self.initial, seed)
        return {name: torch.from_numpy(each).to(self.device) for name, each in values.items()}

    def logits(self, weights: Mapping[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        """float32 [n, k] for normalised pixels float32 [n, c, h, w]; differentiable in both.

        Outputs beyond the classes are spare ones of the module: they are off.
        """
        return self._called(self.module, weights, pixels)[:, : self.class_count]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within, the module reads running statistics and drops nothing out, as a trained network in use does."""
        modes = {each: each.training for each in self.module.modules()}
        self.module.eval()
        try:
            yield
        finally:
            # Not train(): a module may be posed with some of its layers out of training.
            for each, training in modes.items():
                each.training = training

    def answers(self, weights: Mapping[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        """float32 [n, k]: the logits of a trained network in use, its running statistics among ``weights``."""
        with self.in_use(), torch.no_grad():
            return self.logits(weights, pixels)

    def features(self, weights: Mapping[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        """float32 [n, f]: what the classifier's last layer reads; differentiable in both."""
        named = {f"module.{name}": value for name, value in weights.items()}
        return self._called(features_of(self.module), named, pixels)

    def _called(self, module: nn.Module, weights: Mapping[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        coarse = self.precision != PRECISIONS[0]
        pixels = suited(pixels, self.precision)
        # Of attention's kernels, only the plain one has the gradient of a gradient.
        plain = sdpa_kernel(SDPBackend.MATH)
        with plain, torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=coarse):
            made = cast(torch.Tensor, functional_call(module, dict(weights), (pixels,)))
        return made.float() if coarse else made

    def pixels(self, positions: np.ndarray) -> torch.Tensor:
        """The real images at ``positions``, normalised float32 [n, c, h, w]."""
        return cast(torch.Tensor, self.normalise(torch.from_numpy(self.real.images[positions]).to(self.device)))

    def classes(self, positions: np.ndarray) -> torch.Tensor:
        """The classes of the real images at ``positions``, int64 [n]."""
        return torch.from_numpy(self.real.targets[positions]).to(self.device)

    def pick(self, per_class: int, rng: np.random.Generator) -> np.ndarray:
        """Positions of ``per_class`` real samples of every class, class 0 first: int64 [per_class * k].

        Drawn without repeats; a class that has fewer gives each at least once.
        """
        return np.concatenate([_draw(group, per_class, rng) for group in self.groups])

    def rows(self, classes: Sequence[int], per_class: int) -> np.ndarray:
        """Where the images of ``classes`` are among ``per_class`` images of every class, class by class: int64 [n]."""
        return (np.asarray(classes, np.int64)[:, None] * per_class + np.arange(per_class)).reshape(-1)

    def rng(self, iteration: int) -> np.random.Generator:
        """Randomness of one iteration: it depends on (seed, iteration) alone, so a resumed run repeats it."""
        return np.random.default_rng([self.seed, iteration])


def _draw(group: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    whole = [group] * (count // len(group))
    return np.concatenate([*whole, rng.choice(group, count % len(group), replace=False)])


class Distillation(Protocol):
    """A method at work on one problem; its constructor takes (problem, settings)."""

    def step(self, done: float) -> float:
        """Make one iteration and return its loss; ``done`` in 0-1 is the share of the budget that is used up."""

    def snapshot(self) -> Snapshot:
        """The distilled set as it stands."""

    def state(self) -> State:
        """All that ``restore`` needs to go on: tensors, numbers, strings, lists and dicts of them."""

    def restore(self, state: State) -> None:
        """Go on from a state that ``state`` gave."""


def annealed(rate: float, done: float, floor: float = 0.03) -> float:
    """A rate that falls along a half cosine to ``floor`` times its start, so that the last iterations settle."""
    return rate * (floor + (1.0 - floor) * 0.5 * (1.0 + float(np.cos(np.pi * min(done, 1.0)))))
