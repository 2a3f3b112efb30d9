"""What a device keeps of past tasks: distilled sets and samples of its own, in a bounded number of bytes.

A memory is made of parts: each came at one time, from a bundle or from the device's own data, and is quantised as a
bundle's pixels are.  When all parts together are larger than the limit, the class that takes most bytes gives up one
image after the other, so that what is left is balanced over the classes; a class gives up its own samples before
distilled images, and of either the one that was to go first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fieldkit.bundle.enlarging import enlarge
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.samples import Samples
from fieldkit.errors import ResourceError

DISTILLED, OWN = "distilled", "own"
KINDS = (DISTILLED, OWN)


@dataclass(frozen=True)
class Part:
    """Images that came together.

    kind: one of ``KINDS``.  source: the bundle's digest, or that of the samples.
    pixels: quantised images, at most as large as the model's input.
    classes: uint16 [n], each image's slot among the model's outputs.
    ranks: float64 [n]; of a class, the highest is given up first.
    labels: float16 [n, k] soft labels over the first k slots, rows sum to 1; None where the class says all.
    answers: float16 [n, k] what the model said over the first k slots when it had just learnt them; None if not kept.
    """

    kind: str
    source: str
    pixels: Pixels
    classes: np.ndarray
    ranks: np.ndarray
    labels: np.ndarray | None = None
    answers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def cost(self) -> int:
        """Bytes of one image with all that is said of it."""
        each = (self.pixels.codes, self.classes, self.ranks, self.labels, self.answers)
        return sum(int(values[:1].nbytes) for values in each if values is not None)

    @property
    def bytes(self) -> int:
        """Bytes of all its arrays."""
        return len(self) * self.cost + self.pixels.scale.nbytes + self.pixels.offset.nbytes

    def take(self, positions: np.ndarray) -> Part:
        """The images at these positions, int64 [m], in this order."""
        pixels = replace(self.pixels, codes=self.pixels.codes[positions])
        labels = None if self.labels is None else self.labels[positions]
        answers = None if self.answers is None else self.answers[positions]
        classes, ranks = self.classes[positions], self.ranks[positions]
        return replace(self, pixels=pixels, classes=classes, ranks=ranks, labels=labels, answers=answers)

    def samples(self, size: tuple[int, int], width: int, share: float = 0.0) -> Samples:
        """What a training reads: float32 native counts at (height, width) and float32 [n, width] soft labels.

        width: slots in use.  share: how much of a label is the model's own answer, where that was kept, in 0-1.
        """
        labels = np.zeros((len(self), width), np.float32)
        if self.labels is None:
            labels[np.arange(len(self)), self.classes] = 1.0
        else:
            labels[:, : self.labels.shape[1]] = self.labels
        if self.answers is not None and share > 0:
            labels *= 1.0 - share
            labels[:, : self.answers.shape[1]] += share * self.answers.astype(np.float32)
        return Samples(enlarge(self.pixels.decode(), *size), labels)


@dataclass(frozen=True)
class Memory:
    """Parts that together take at most ``limit`` bytes, in the order in which they came."""

    limit: int
    parts: tuple[Part, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.bytes > self.limit:
            raise ResourceError("a memory over its limit", found=f"{self.bytes} bytes", expected=f"{self.limit}")

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def bytes(self) -> int:
        """Bytes of everything it holds."""
        return sum(each.bytes for each in self.parts)

    def counts(self, width: int) -> np.ndarray:
        """How many images it holds of each of the first ``width`` slots: int64 [width]."""
        return sum((np.bincount(each.classes, minlength=width) for each in self.parts), np.zeros(width, np.int64))

    def held(self, source: str) -> int:
        """How many images it holds of one source."""
        return sum(len(each) for each in self.parts if each.source == source)

    def with_parts(self, parts: Sequence[Part]) -> Memory:
        """The memory with more parts, which gives up what does not fit.

        Raises ResourceError if a class that has images would be left without one.
        """
        return fitted((*self.parts, *parts), self.limit)

    def without(self, source: str) -> Memory:
        """The memory without the parts of one source."""
        return replace(self, parts=tuple(each for each in self.parts if each.source != source))

    def samples(self, size: tuple[int, int], width: int, share: float = 0.0) -> Samples:
        """All its images, as ``Part.samples`` gives them.  It must not be empty."""
        made = [each.samples(size, width, share) for each in self.parts]
        return Samples(np.concatenate([each.images for each in made]), np.concatenate([each.targets for each in made]))


def fitted(parts: Sequence[Part], limit: int) -> Memory:
    """A memory of ``parts`` within ``limit`` bytes: the class that takes most gives up its last image, until it fits.

    Raises ResourceError if a class that has images would be left without one.
    """
    total = sum(each.bytes for each in parts)
    if total <= limit:
        return Memory(limit, tuple(each for each in parts if len(each)))
    fixed = sum(each.pixels.scale.nbytes + each.pixels.offset.nbytes for each in parts)
    kept = _kept(parts, limit, fixed)
    taken = [each.take(positions) for each, positions in zip(parts, kept, strict=True)]
    return Memory(limit, tuple(each for each in taken if len(each)))


def _kept(parts: Sequence[Part], limit: int, fixed: int) -> list[np.ndarray]:
    """Positions in each of ``parts`` of the images that stay, ascending; ``fixed`` bytes belong to no image."""
    held = np.concatenate([np.full(len(each), index) for index, each in enumerate(parts)])
    place = np.concatenate([np.arange(len(each)) for each in parts])
    slot = np.concatenate([each.classes for each in parts]).astype(np.int64)
    own = np.array([each.kind == OWN for each in parts])[held]
    cost = np.array([each.cost for each in parts])[held]
    # A class's images from the last to be given up to the first: of its own those of high rank go before all, and of
    # equal ones those that came last.
    order = np.lexsort((place, held, np.concatenate([each.ranks for each in parts]), own))
    queues = {int(each): list(order[slot[order] == each]) for each in np.unique(slot)}
    taken = {each: int(cost[queue].sum()) for each, queue in queues.items()}
    given: list[int] = []
    total = sum(taken.values())
    while total > limit - fixed:
        largest = max(taken, key=lambda each: (taken[each], each))
        if len(queues[largest]) == 1:
            raise _too_small(parts, limit, fixed)
        given.append(int(queues[largest].pop()))
        freed = int(cost[given[-1]])
        taken[largest] -= freed
        total -= freed
    stays = np.ones(len(held), bool)
    stays[given] = False
    return [place[stays & (held == index)] for index in range(len(parts))]


def _too_small(parts: Sequence[Part], limit: int, fixed: int) -> ResourceError:
    slots = {int(slot) for each in parts for slot in each.classes}
    return ResourceError(
        "the memory is too small to keep an image of every class",
        where="memory",
        found=f"{limit} bytes",
        expected=f"at least {fixed + len(slots) * max(each.cost for each in parts)} for {len(slots)} classes",
        remedy="give it more with --memory",
    )
