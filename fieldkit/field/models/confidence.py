"""How far a model's probabilities can be believed, measured on a bundle's probe and kept in the model's metadata.

Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017): softmax(logits / T), that is
p^(1/T) brought to sum 1, with the T of the least negative log-likelihood.  It changes no answer, only how sure it is.
Differs: a probe may be small and all right, whose likelihood grows without end as T falls; so ln T has a standard
normal prior, which weighs as much as one or two images.

The threshold is that of selective classification with guaranteed risk (Geifman & El-Yaniv, NeurIPS 2017): the answers
at least that sure are right with at least a wished-for accuracy, by an exact binomial bound (Clopper & Pearson 1934)
that holds for all thresholds that are tried at once (Bonferroni).  Differs: ten thresholds are tried, from the one that
98 % of the probe reaches to the one that 10 % reaches, in place of a binary search over all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.samples import Samples
from fieldkit.errors import ProgramError, UsageError
from fieldkit.field.models.prediction import Predictor
from fieldkit.field.models.unseen import unseen
from fieldkit.field.programs.metadata import with_metadata

KEY = "fieldkit.confidence"
TARGET = 0.95
"""The accuracy that accepted answers should have."""
CERTAINTY = 0.9
"""How certain it should be that they have it."""
COVERAGES = (0.98, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Shares of the probe that the thresholds tried accept.  Never all: what is less sure than it is odd."""
# The smallest positive float32, which stands for the probabilities that are less.
_LEAST = float(np.finfo(np.float32).smallest_subnormal)
_NUMBERS: Mapping[str, Callable[[Any], Any]] = {"float": float, "int": int}
_LOG_TEMPERATURES = np.linspace(-3.0, 3.0, 61)


@dataclass(frozen=True)
class Confidence:
    """What was measured.

    temperature: > 0; below 1 the model was less sure than it is right, above 1 more.
    threshold: probability, after the temperature, below which an answer is uncertain.
    accuracy: of the answers that are not, with a certainty of ``CERTAINTY`` at least this share is right, 0-1.
    coverage: the share of the probe that reaches the threshold, 0-1; of ``samples`` images.
    """

    temperature: float
    threshold: float
    accuracy: float
    coverage: float
    samples: int

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """float64 [n, k] from float32 [n, k]: in the same order within each row, and as sure as they should be."""
        return scaled(probabilities, self.temperature)


def calibrate(model: bytes, bundle: Bundle, threads: int | None = None) -> bytes:
    """``model`` with its confidence on the bundle's probe in its metadata, in place of what is there.

    What the model has learnt from, in an adaptation, cannot say how sure to be.  The model may know more classes than
    the bundle has.  It is returned as it is if the bundle carries no probe.
    Raises what ``Predictor.open`` does, and UsageError for a model that lacks a class of the probe.
    """
    if bundle.probe is None:
        return model
    predictor = Predictor.open(model, threads)
    lacking = [name for name in bundle.manifest.classes if name not in predictor.classes]
    if lacking:
        raise UsageError(
            "the model does not know the bundle's classes",
            found=f"no {', '.join(lacking)}",
            remedy="calibrate it on the bundle that it was trained from",
        )
    places = np.array([predictor.classes.index(name) for name in bundle.manifest.classes])
    probe = unseen(bundle, predictor.metadata)
    assert probe is not None
    return calibrate_on(model, Samples(probe.images, places[probe.targets]), threads)


def calibrate_on(model: bytes, probe: Samples, threads: int | None = None) -> bytes:
    """``model`` with its confidence on ``probe`` in its metadata; targets are places among the model's classes."""
    found = measure(Predictor.open(model, threads).predict(probe.images), probe.targets)
    return with_metadata(model, {KEY: json.dumps(asdict(found), allow_nan=False)})


def known(metadata: Mapping[str, str], where: str) -> Confidence | None:
    """The confidence in a model's metadata, if it was measured.  Raises ProgramError for one that makes no sense."""
    if KEY not in metadata:
        return None
    try:
        document = json.loads(metadata[KEY])
        found = Confidence(**{each.name: _NUMBERS[str(each.type)](document[each.name]) for each in fields(Confidence)})
        sound = 0 < found.temperature < math.inf and 0 <= found.threshold <= 1
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        sound = False
    if not sound:
        raise ProgramError(
            "a confidence that makes no sense in the model's metadata",
            where=where,
            found=metadata[KEY][:100],
            expected="a positive temperature and a threshold from 0 to 1",
            remedy="train the model again: fieldkit train BUNDLE -o MODEL",
        )
    return found


def measure(probabilities: np.ndarray, targets: np.ndarray) -> Confidence:
    """The confidence of predictions, float32 [n, k], whose true classes are ``targets``, int64 [n]; n >= 1."""
    temperature = fit_temperature(probabilities, targets)
    surest = scaled(probabilities, temperature).max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    ranked = np.sort(surest)[::-1]
    risk = (1 - CERTAINTY) / len(COVERAGES)
    tried = []
    for coverage in COVERAGES:
        threshold = ranked[math.ceil(coverage * len(ranked)) - 1]
        accepted = surest >= threshold
        count = int(accepted.sum())
        bound = least_share(int(right[accepted].sum()), count, risk)
        tried.append(Confidence(temperature, float(threshold), bound, count / len(ranked), len(ranked)))
    enough = [each for each in tried if each.accuracy >= TARGET]
    return enough[0] if enough else max(tried, key=lambda each: each.accuracy)


def scaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1/T) brought to sum 1: float64 [n, k] from float [n, k]."""
    powers = np.log(np.maximum(probabilities, _LEAST, dtype=np.float64)) / temperature
    powers -= powers.max(axis=1, keepdims=True)
    found: np.ndarray = np.exp(powers)
    found /= found.sum(axis=1, keepdims=True)
    return found


def fit_temperature(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """The temperature under which ``targets`` [n] are the likeliest, prior included: e^-3 to e^3."""
    logs = np.log(np.maximum(probabilities, _LEAST, dtype=np.float64))
    logs -= logs.max(axis=1, keepdims=True)
    own = logs[np.arange(len(targets)), targets].sum()

    def cost(log_temperature: float) -> float:
        slope = math.exp(-log_temperature)
        return float(np.log(np.exp(slope * logs).sum(axis=1)).sum() - slope * own + log_temperature**2 / 2)

    costs = [cost(each) for each in _LOG_TEMPERATURES]
    best = int(np.argmin(costs))
    low, high = _LOG_TEMPERATURES[max(best - 1, 0)], _LOG_TEMPERATURES[min(best + 1, len(costs) - 1)]
    # Within one step of the grid there is one minimum, which is halved in on.
    for _ in range(40):
        third = (high - low) / 3
        if cost(low + third) <= cost(high - third):
            high -= third
        else:
            low += third
    return math.exp((low + high) / 2)


def least_share(hits: int, count: int, risk: float) -> float:
    """Clopper & Pearson's lower bound: the chance per draw that gives ``hits`` of ``count`` or more with ``risk``."""
    if hits == 0:
        return 0.0
    terms = np.arange(hits, count + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    ways = factorials[count] - factorials[terms] - factorials[count - terms]
    low, high = 0.0, 1.0
    for _ in range(50):
        chance = (low + high) / 2
        tail = np.exp(ways + terms * math.log(chance) + (count - terms) * math.log1p(-chance)).sum()
        low, high = (chance, high) if tail < risk else (low, chance)
    return low
