"""``--method auto``: the method that suits the data, the set that is wanted, and the time there is; and why.

The rules are what docs/results.md measured: regression on the features of networks in training (ridge) beats the other
methods wherever it can make some hundred iterations; matching distributions is worth more than few of those; and where
images are large and classes many, only methods that treat each image by itself stay within memory.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    @property
    def iteration(self) -> float:
        """Seconds of one iteration of ridge: a backward pass takes twice as long as a forward pass."""
        return self.pass_seconds * (REAL + 3 * self.distilled + 3 * min(self.distilled, 100))


def choose(situation: Situation) -> tuple[str, str]:
    """A method's name, and the reason in a few words."""
    if situation.classes > MANY_CLASSES or situation.distilled * situation.values > MANY_VALUES:
        return (
            "patches",
            f"{situation.distilled:,} images of {situation.classes:,} classes are too much to move at once",
        )
    if situation.images <= situation.distilled * 2:
        return "herding", f"{situation.images:,} real images are hardly more than the {situation.distilled:,} wanted"
    if situation.regularised:
        return "distribution", "no method goes along with a training that is regularised"
    if situation.fixed and situation.distilled <= FEW_IMAGES:
        return "unrolled", f"{situation.distilled} images and fixed first weights: every step can be learnt"
    if situation.seconds is not None and situation.seconds < ENOUGH * situation.iteration:
        made = int(situation.seconds / situation.iteration)
        return "distribution", f"time for about {made} iterations of ridge, which wants at least {ENOUGH}"
    return "ridge", "the best scores for sets of this size, with time enough"
