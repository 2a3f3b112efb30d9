"""``--method auto``: the method that suits the data, the set that is wanted, and the time there is; and why.

The rules are what docs/results.md measured: regression on the features of networks in training (ridge) beats the other
methods wherever it can make some hundred iterations; matching distributions is worth more than few of those; and where
images are large and classes many, only methods that treat each image by itself stay within memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fieldkit.hq.distil import method

# Distilled values (images, bands and pixels) beyond which all images at once do not fit a modest computer's memory with
# the activations of a network on them, and classes beyond which a batch of all is too coarse.
MANY_VALUES = 20_000_000
MANY_CLASSES = 100
# Distilled images of which a fixed network learns every step.
FEW_IMAGES = 20
# Iterations below which ridge has not yet overtaken distribution matching.
ENOUGH = 150
# Images that one iteration of ridge takes through a network, in forward passes, beside those of the distilled set.
REAL = 512


@dataclass(frozen=True)
class Situation:
    """What a choice depends on.

    images: real ones.  distilled: images to be made.  values: bands x height x width of one as it is stored.
    classes: how many.  fixed: whether the first weights travel in the bundle.  regularised: whether the device's
    training has what no method can follow.
    moved, learned: whether the user wants pixels to start somewhere, and labels to be learnt.
    beside: whether there are sets of earlier tasks, which one method alone takes account of.
    seconds: time to distil, or None.  pass_seconds: what a forward pass takes for one image.
    """

    images: int
    distilled: int
    values: int
    classes: int
    fixed: bool
    regularised: bool
    seconds: float | None
    pass_seconds: float
    moved: bool = False
    learned: bool = False
    beside: bool = False

    @property
    def iteration(self) -> float:
        """Seconds of one iteration of ridge: a backward pass takes twice as long as a forward pass."""
        return self.pass_seconds * (REAL + 3 * self.distilled + 3 * min(self.distilled, 100))


def choose(situation: Situation) -> tuple[str, str]:
    """A method's name, and the reason in a few words; it can do what the user wants of starts and labels."""
    return next((name, why) for name, why in _suited(situation) if _grants(name, situation))


def _grants(name: str, situation: Situation) -> bool:
    known = method(name)
    return (known.learns or not situation.learned) and (known.starts is not None or not situation.moved)


def _suited(situation: Situation) -> Iterator[tuple[str, str]]:
    """Methods and why, the best first."""
    if situation.beside:
        yield "beside", "the only one that makes a set beside earlier ones"
    if situation.classes > MANY_CLASSES or situation.distilled * situation.values > MANY_VALUES:
        why = f"{situation.distilled:,} images of {situation.classes:,} classes are too much to move at once"
        yield from ((name, why) for name in ("patches", "inversion", "trajectory"))
    if situation.images <= situation.distilled * 2:
        yield "herding", f"{situation.images:,} real images are hardly more than the {situation.distilled:,} wanted"
    if situation.regularised:
        yield from ((name, "no method follows a training that is regularised") for name in ("distribution", "bptt"))
    if situation.fixed and situation.distilled <= FEW_IMAGES:
        yield "unrolled", f"{situation.distilled} images and fixed first weights: every step can be learnt"
    if situation.seconds is not None and situation.seconds < ENOUGH * situation.iteration:
        made = int(situation.seconds / situation.iteration)
        yield "distribution", f"time for about {made} iterations of ridge, which wants at least {ENOUGH}"
    yield "ridge", "the best scores for sets of this size, with time enough"
