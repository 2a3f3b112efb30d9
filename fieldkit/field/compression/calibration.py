"""Which numbers flow through a model while it looks at a set of images, for quantisation.

A range that holds every value wastes steps on the rarest; a narrower one cuts those off.  The range is the one of
least mean squared error over a histogram of what flowed (Nagel et al. 2021, A White Paper on Neural Network
Quantization, section 3.1, equation 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.field.engine.session import Session, open_session, run_session
from fieldkit.field.programs.graph import Graph, with_outputs

BATCH = 16
BINS = 2048
STEPS = 255
SMALLEST = 1e-18
"""The smallest scale: the product of two is still a float32, and so is a value divided by it."""
# How much of the full range a candidate keeps at either end.
SHARES = np.linspace(1.0, 0.3, 36)

Range = tuple[float, float]


@dataclass(frozen=True)
class Histogram:
    """How often values came between two ends, which hold 0 between them; ``counts`` in ``BINS`` equal bins."""

    low: float
    high: float
    counts: np.ndarray

    @property
    def middles(self) -> np.ndarray:
        found: np.ndarray = self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS
        return found

    def error(self, ends: Range) -> float:
        """Sum of squared errors of storing the values in steps between two ends, beyond which they are cut off."""
        step = max((ends[1] - ends[0]) / STEPS, SMALLEST)
        kept = np.clip(np.rint(self.middles / step), np.rint(ends[0] / step), np.rint(ends[1] / step)) * step
        return float((self.counts * (self.middles - kept) ** 2).sum())

    def best_range(self) -> Range:
        """The ends of least error."""
        best = self.low, self.high
        # One end after the other, since they hardly meet; then again from there.
        for _ in range(2):
            best = min([(self.low * float(share), best[1]) for share in SHARES], key=self.error)
            best = min([(best[0], self.high * float(share)) for share in SHARES], key=self.error)
        return best


def observe(graph: Graph, names: Sequence[str], images: np.ndarray, threads: int | None = None) -> dict[str, Histogram]:
    """What each of these float32 tensors of ``graph`` holds while it looks at ``images``.

    images: [n, c, h, w] of the model's own dtype, n >= 1.
    """
    names = list(names)
    if not names:
        return {}
    session = open_session(with_outputs(graph, names), "the model, with its tensors in between as outputs", threads)
    ends: dict[str, Range] = dict.fromkeys(names, (0.0, 0.0))
    for found in _flow(session, names, images):
        for name, values in found.items():
            low, high = ends[name]
            ends[name] = (min(low, float(values.min())), max(high, float(values.max())))
    counts = {name: np.zeros(BINS) for name in names}
    for found in _flow(session, names, images):
        for name, values in found.items():
            counts[name] += np.histogram(values, BINS, ends[name] if ends[name] != (0.0, 0.0) else (0.0, 1.0))[0]
    return {name: Histogram(*ends[name], counts[name]) for name in names}


def sensor_images(bundle: Bundle) -> np.ndarray:
    """The distilled images as the sensor would count them, [n, c, h, w] of its dtype: rounded, and within its range."""
    dtype = np.dtype(bundle.manifest.radiometry.dtype)
    images: np.ndarray = np.clip(np.rint(bundle.training_set().images), 0, np.iinfo(dtype).max).astype(dtype)
    return images


def _flow(session: Session, names: Sequence[str], images: np.ndarray) -> Iterator[Mapping[str, np.ndarray]]:
    """What each tensor holds, batch after batch of images."""
    for first in range(0, len(images), BATCH):
        found = run_session(session, {"images": images[first : first + BATCH]}, "the model")
        yield dict(zip(names, found[-len(names) :], strict=True))
