"""Distilled pixels on their way: where they start, and how the bundle rounds them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch

from fieldkit.hq.distil.problem import Problem

# Images of a class that tell what they have in common, and images that a device holds at a time.
ENOUGH = 1000
LEAST = 5
STARTS = ("real", "centres", "means", "noise")


def rounded(pixels: torch.Tensor, levels: int) -> torch.Tensor:
    """Pixels float32 [n, c, h, w] as the bundle's codec will give them back; the gradient passes unchanged.

    The straight-through estimator of Bengio, Leonard & Courville 2013 (arXiv 1308.3432).
    """
    held = pixels.detach()
    low, high = held.amin(dim=(0, 2, 3), keepdim=True), held.amax(dim=(0, 2, 3), keepdim=True)
    scale = ((high - low) / (levels - 1)).clamp_min(torch.finfo(torch.float32).tiny)
    return pixels + (torch.round((held - low) / scale) * scale + low - held)


def restored(problem: Problem, pixels: torch.Tensor) -> np.ndarray:
    """Native counts float32 [n, c, h, w] of normalised pixels in main memory; the device sees some at a time."""
    parts = [problem.normalise.restore(each.to(problem.device)).cpu() for each in torch.split(pixels, ENOUGH)]
    return torch.cat(parts).numpy()


def first_pixels(problem: Problem, start: str, contrast: float, rng: np.random.Generator) -> torch.Tensor:
    """Where pixels start: float32 [per_class * k, c, h, w], normalised, class 0 first, as small as they are stored.

    start: "real" samples, drawn at random, which leak more of the data than the others; "centres" of each class by
    k-means; each class's "means", all the same; or "noise" alone.
    contrast: standard deviation of the noise that is added to centres and means.
    """
    if start == "real":
        return problem.reduced(problem.pixels(problem.pick(problem.per_class, rng))).clone()
    if start == "centres":
        return _noisy(centres(problem, rng), contrast, rng)
    means = torch.cat([_mean(problem, group, rng) for group in problem.groups])
    repeated = means.repeat_interleave(problem.per_class, dim=0)
    if start == "means":
        return _noisy(repeated, contrast, rng)
    return _noisy(torch.zeros_like(repeated), 1.0, rng)


def centres(
    problem: Problem, rng: np.random.Generator, view: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> torch.Tensor:
    """Each class's k-means centres over about 1,000 images (more, if it is to have more than 100 centres).

    Each is the mean of at least ``LEAST`` images, if the class has so many.

    view: what makes of normalised pixels [n, c, h, w] that which is averaged, [n, ...]; by default, the pixels that are
    stored.  Returns float32 [per_class * k, ...], class 0 first.
    """
    # Slow to import, and needed once.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    found: list[torch.Tensor] = []
    for group in problem.groups:
        some = _some(problem, group, max(ENOUGH, 10 * problem.per_class), rng, view)
        seed = int(rng.integers(1 << 31))
        with warnings.catch_warnings():
            # Fewer different images than centres: some centres are the same, and noise tells them apart.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = KMeans(problem.per_class, n_init=1, random_state=seed).fit(some.flatten(1).cpu().numpy())
        means = averages(some.flatten(1).cpu().numpy(), fitted.labels_, fitted.cluster_centers_)
        found.append(torch.from_numpy(means.astype(np.float32)).reshape(-1, *some.shape[1:]))
    return torch.cat(found).to(problem.device)


def averages(values: np.ndarray, labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The centres ``found`` [k, d] of images ``values`` [n, d] with these labels, none of which copies an image.

    An unlike image is a cluster of its own, and its centre the image itself; a centre of fewer than ``LEAST`` images is
    the mean of the ``LEAST`` that are nearest to it instead.
    """
    made = found.copy()
    for index in np.flatnonzero(np.bincount(labels, minlength=len(found)) < LEAST):
        distances = np.square(values - found[index]).sum(axis=1)
        made[index] = values[np.argsort(distances, kind="stable")[:LEAST]].mean(axis=0)
    return made


def _mean(problem: Problem, group: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    return _some(problem, group, ENOUGH, rng).mean(dim=0, keepdim=True)


def _some(
    problem: Problem,
    group: np.ndarray,
    count: int,
    rng: np.random.Generator,
    view: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    return (view or problem.reduced)(problem.pixels(rng.permutation(group)[:count]))


def _noisy(pixels: torch.Tensor, contrast: float, rng: np.random.Generator) -> torch.Tensor:
    noise = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return pixels + noise.to(pixels.device) * contrast
