"""Distilled pixels on their way: where they start, and how the bundle rounds them."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from fieldkit.hq.distil.problem import Problem

ENOUGH = 1000


def rounded(pixels: torch.Tensor, levels: int) -> torch.Tensor:
    """Pixels float32 [n, c, h, w] as the bundle's codec will give them back; the gradient passes unchanged.

    The straight-through estimator of Bengio, Leonard & Courville 2013 (arXiv 1308.3432).
    """
    held = pixels.detach()
    low, high = held.amin(dim=(0, 2, 3), keepdim=True), held.amax(dim=(0, 2, 3), keepdim=True)
    scale = ((high - low) / (levels - 1)).clamp_min(torch.finfo(torch.float32).tiny)
    return pixels + (torch.round((held - low) / scale) * scale + low - held)


def centres(problem: Problem, contrast: float, rng: np.random.Generator) -> torch.Tensor:
    """First pixels float32 [per_class * k, c, h, w], as small as they are stored, so that no real image is copied.

    Each class's k-means centres over about 1,000 images (more, if it is to have more than 100 centres), plus noise of
    standard deviation ``contrast``.
    """
    # Slow to import, and needed once.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    found: list[torch.Tensor] = []
    for group in problem.groups:
        some = problem.reduced(problem.pixels(rng.permutation(group)[: max(ENOUGH, 10 * problem.per_class)]))
        seed = int(rng.integers(1 << 31))
        with warnings.catch_warnings():
            # Fewer different images than centres: some centres are the same, and noise tells them apart.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted = KMeans(problem.per_class, n_init=1, random_state=seed).fit(some.flatten(1).cpu().numpy())
        means = fitted.cluster_centers_
        found.append(torch.from_numpy(means.astype(np.float32)).reshape(-1, *some.shape[1:]))
    pixels = torch.cat(found)
    noisy = pixels + torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32)) * contrast
    return noisy.to(problem.device)
