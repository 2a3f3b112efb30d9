"""Which of its own samples a device keeps: by herding, or by chance.

Rebuffi, Kolesnikov, Sperl & Lampert, "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017 (arXiv
1611.07725), algorithm 4, takes one sample after the other, each time the one that brings the mean of the features of
those taken closest to the mean of all; so any first part of the order is a good choice of its size, and giving up the
last is all it takes to make room.  Vitter, "Random Sampling with a Reservoir", 1985, keeps a uniform choice of a
stream, here by random keys (algorithm A-Res of Efraimidis & Spirakis 2006 with equal weights): each sample draws a
number when it comes, and the smallest ones stay.

Either way a sample gets a rank in [0, 1), and the highest ones are given up first.
"""

from __future__ import annotations

import numpy as np

from fieldkit.bundle.weights import uniforms

CHOICES = ("herding", "reservoir")
KEYS = 4 << 32


def herding(features: np.ndarray, count: int) -> np.ndarray:
    """Positions of ``count`` of the features, float [n, f], in the order of their choice: int64 [count].

    Features are brought to length 1, as in iCaRL.  The next is argmin |mean - (taken + feature) / t|; since all lengths
    are the same, that is argmax of feature . (t mean - taken).
    """
    wide = features.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    directions = wide / np.where(lengths > 0, lengths, 1.0)
    mean, taken = directions.mean(axis=0), np.zeros(directions.shape[1])
    left = np.ones(len(directions), bool)
    found: list[int] = []
    for number in range(1, min(count, len(directions)) + 1):
        gains = np.where(left, directions @ (number * mean - taken), -np.inf)
        found.append(int(gains.argmax()))
        left[found[-1]] = False
        taken += directions[found[-1]]
    return np.array(found, np.int64)


def ranks(choice: str, features: np.ndarray, *, seed: int, stream: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Which samples of one class to keep at most, and their ranks: int64 [m] positions, float64 [m].

    features: float [n, f] of all samples of the class that came together; herding alone reads them.
    seed, stream: what reservoir draws from; the stream tells samples that came together from others.
    most: how many samples there is room for at all.

    Herding ranks a sample by its place in the order, as a share of n, so that a class whose samples came at several
    times keeps of each time what is in proportion; reservoir by its key.
    """
    count = len(features)
    if choice == "herding":
        order = herding(features, most)
        return order, np.arange(len(order)) / count
    keys = uniforms(seed, KEYS + stream, count)
    order = np.argsort(keys, kind="stable")[:most]
    return order, keys[order]
