"""Time of one iteration of distribution matching: ours against the structure of the authors' code.

    python tools/bench_dm.py [--data ../shared/data/mnist.h5] [--ipc 10] [--per-class 256] [--width 128]
                             [--threads 2] [--repeats 7] [--precision float32]

Both do the same: a fresh ConvNet-3, real images of each class, the same augmentation for both sides of a class, the
squared distance of mean features summed over classes, and one step of the images down its gradient.  The authors' code
(Zhao & Bilen, main_DM.py) goes class by class and sends real and distilled images through the network separately, each
in one batch.  They take turns in one process on the same draws, and the losses must agree.  With --precision bfloat16
ours multiplies as ``fieldkit build --minutes`` does where that is quicker; theirs stays as it is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Schedule
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil.distribution import DistributionMatching, Settings
from fieldkit.hq.distil.problem import PRECISIONS, Problem
from fieldkit.hq.models import build_model
from fieldkit.hq.models.features import features_of
from fieldkit.hq.models.halving import quickened
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.sources import load

DATA = Path(os.environ.get("FIELDKIT_DATA", "../shared/data")) / "mnist.h5"
# How far the losses may be apart, as a share.
AGREEMENT = dict(zip(PRECISIONS, (1e-4, 0.02), strict=True))


def main() -> None:
    settings = _settings()
    torch.set_num_threads(settings.threads)
    problem = pose(settings.data, settings.ipc, settings.width)
    matching = Settings(per_class=settings.per_class)
    theirs = AuthorsStructure(problem, matching)
    ours = DistributionMatching(replace(problem, precision=settings.precision), matching)
    print(f"torch {torch.__version__}, {settings.threads} threads, {settings.data.name}, IPC {settings.ipc},")
    print(
        f"{settings.per_class} real images a class, ConvNet-3 of width {settings.width}; ours in {settings.precision}"
    )
    theirs.move(ours)
    times: dict[str, list[float]] = {"authors' structure": [], "ours": []}
    for repeat in range(settings.repeats + 1):
        expected, slow = _timed(theirs.step)
        found, fast = _timed(lambda: ours.step(0.0))
        if abs(found - expected) > AGREEMENT[settings.precision] * expected:
            raise SystemExit(f"the losses differ: {found} against {expected}")
        theirs.move(ours)
        if repeat:
            times["authors' structure"].append(slow)
            times["ours"].append(fast)
    for name, each in times.items():
        print(f"{name}: {statistics.median(each):.3f} s ({min(each):.3f}-{max(each):.3f})")
    ratio = statistics.median(times["ours"]) / statistics.median(times["authors' structure"])
    print(f"ratio {ratio:.3f}, medians of {settings.repeats} in turn")


def pose(data: Path, ipc: int, width: int) -> Problem:
    """The problem of a data file, for the field's ConvNet-3."""
    dataset = load(data)
    shape = dataset.train.images.shape[1:]
    return Problem(
        real=dataset.train,
        module=quickened(build_model("convnet", {"depth": 3, "width": width}, shape, len(dataset.classes))),
        normalise=Normalise(Radiometry.measure(dataset.train.images)),
        ipc=ipc,
        class_count=len(dataset.classes),
        schedule=Schedule(1, 1),
    )


class AuthorsStructure:
    """One iteration as main_DM.py does it: a loop over classes, two forward passes in each, SGD on the images."""

    def __init__(self, problem: Problem, settings: Settings) -> None:
        self.problem = problem
        self.settings = settings
        self.iteration = 0
        self.net = build_model("convnet", self._options(), problem.real.images.shape[1:], problem.class_count)
        self.features = features_of(self.net)
        self.pixels = torch.zeros(0)
        self.optimiser = torch.optim.SGD([self.pixels], lr=1.0, momentum=0.5)

    def move(self, ours: DistributionMatching) -> None:
        """Take over our images, as they are seen, so that both compare the same."""
        self.pixels = ours.distilled.seen().detach().clone().requires_grad_(True)
        self.optimiser = torch.optim.SGD([self.pixels], lr=1.0, momentum=0.5)

    def step(self) -> float:
        """The loss of the next iteration, whose draws are ours."""
        problem, count, ipc = self.problem, self.settings.per_class, self.problem.per_class
        self.iteration += 1
        rng = problem.rng(self.iteration)
        self.net.load_state_dict(problem.fresh_model(int(rng.integers(1 << 62))))
        for each in self.net.parameters():
            each.requires_grad_(False)
        positions = problem.pick(count, rng)
        uniforms = rng.random((problem.class_count, self.settings.augmentation.width), dtype=np.float32)
        loss = torch.tensor(0.0)
        for index in range(problem.class_count):
            real = self._changed(problem.pixels(positions[index * count : (index + 1) * count]), uniforms[index])
            distilled = self._changed(self.pixels[index * ipc : (index + 1) * ipc], uniforms[index])
            output_real = self.features(real).detach()
            output_distilled = self.features(distilled)
            loss = loss + ((output_real.mean(dim=0) - output_distilled.mean(dim=0)) ** 2).sum()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return float(loss.detach())

    def _changed(self, pixels: torch.Tensor, uniforms: np.ndarray) -> torch.Tensor:
        return augment(pixels, torch.from_numpy(uniforms).expand(len(pixels), -1), self.settings.augmentation)

    def _options(self) -> dict[str, int]:
        width = next(each.shape[0] for each in self.problem.parameters)
        return {"depth": 3, "width": width}


def _timed(action: Callable[[], float]) -> tuple[float, float]:
    began = time.perf_counter()
    return action(), time.perf_counter() - began


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--per-class", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of our products")
    return parser.parse_args()


if __name__ == "__main__":
    main()
