"""How long a model takes on this device: for one image, and for many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fieldkit.field.models.prediction import BATCH, Predictor

WARM_UP = 5
LEAST, MOST = 11, 2000
BATCHES = 3


@dataclass(frozen=True)
class Speed:
    """latency: median seconds for one image.  rate: images a second in batches, median.  runs: timed single images."""

    latency: float
    rate: float
    runs: int


def measure(predictors: Sequence[Predictor], image: np.ndarray, seconds: float = 1.0) -> list[Speed]:
    """The speed of each model on ``image``, [c, h, w] of their dtype.

    The models take turns, so that other work on this device falls on all alike.
    seconds: for the single images of each; at least ``LEAST`` are timed whatever that takes.
    """
    one, many = image[None], np.repeat(image[None], BATCH, 0)
    for predictor in predictors:
        for _ in range(WARM_UP):
            predictor.predict(one)
    taken: list[list[float]] = [[] for _ in predictors]
    began = time.perf_counter()
    while len(taken[0]) < LEAST or (len(taken[0]) < MOST and time.perf_counter() - began < seconds * len(predictors)):
        for times, predictor in zip(taken, predictors, strict=True):
            times.append(_timed(predictor, one))
    batches = [[_timed(predictor, many) for predictor in predictors] for _ in range(BATCHES)]
    return [
        Speed(statistics.median(times), BATCH / statistics.median(turn[place] for turn in batches), len(times))
        for place, times in enumerate(taken)
    ]


def _timed(predictor: Predictor, images: np.ndarray) -> float:
    begin = time.perf_counter()
    predictor.predict(images)
    return time.perf_counter() - begin
