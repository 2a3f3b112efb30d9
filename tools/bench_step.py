"""Time of one training step: the compiled program against torch eager doing the same step.

    python tools/bench_step.py [--depth 3] [--width 128] [--batch 100] [--size 32] [--threads 2] [--repeats 9]

Both do forward, soft-label cross-entropy, backward and SGD with momentum on the same batch.  They take turns in one
process, and the medians are compared.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fieldkit.bundle.radiometry import Radiometry, default_bands
from fieldkit.bundle.recipe import Augmentation, Initial, Recipe, Schedule
from fieldkit.bundle.weights import initial_weights
from fieldkit.field.session import Stepper, runtime_version
from fieldkit.hq.compiler.optimisers import Sgd, state_tensors
from fieldkit.hq.compiler.programs import Sizes, TrainingLoss, example_batch, train_program
from fieldkit.hq.models import build_model
from fieldkit.hq.models.laws import load_weights, parameter_tensors

RATE = 0.01
WARM_UP = 2


def main() -> None:
    settings = _settings()
    torch.set_num_threads(settings.threads)
    loss, recipe = _compiled(settings)
    weights = initial_weights(recipe.parameters, Initial(), 0)
    batch = _batch(loss)
    turns = {"onnx": _onnx_step(recipe, weights, batch, settings.threads), "torch": _torch_step(loss, weights, batch)}
    times = _take_turns(turns, settings.repeats)
    onnx, eager = (statistics.median(times[name]) for name in ("onnx", "torch"))
    print(f"convnet depth {settings.depth}, width {settings.width}, {settings.norm} norm, {settings.pooling} pooling")
    print(f"batch {settings.batch} of {settings.channels}x{settings.size}x{settings.size}, {settings.threads} threads")
    print(f"machine: {_processor()}, {platform.system()}, Python {platform.python_version()}")
    print(f"versions: torch {torch.__version__}, onnxruntime {runtime_version()}, n = {settings.repeats} each, in turn")
    for name in turns:
        low, high = min(times[name]), max(times[name])
        print(f"{name:>6}: median {statistics.median(times[name]) * 1e3:8.1f} ms  ({low * 1e3:.1f}-{high * 1e3:.1f})")
    print(f" ratio: {onnx / eager:.3f} of torch eager's time")


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value in (("depth", 3), ("width", 128), ("batch", 100), ("channels", 3), ("size", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--norm", default="instance")
    parser.add_argument("--pooling", default="avg")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    return parser.parse_args()


def _compiled(settings: argparse.Namespace) -> tuple[TrainingLoss, Recipe]:
    """The train program alone, without its proof of parity, which takes longer than the measurement."""
    shape = (settings.channels, settings.size, settings.size)
    options = {name: getattr(settings, name) for name in ("depth", "width", "norm", "pooling")}
    model = build_model("convnet", options, shape, 10)
    bands = default_bands(settings.channels)
    radiometry = Radiometry(bands, "uint8", (120.0,) * len(bands), (60.0,) * len(bands))
    loss = TrainingLoss(model, radiometry, Augmentation(), Sizes(settings.batch, shape, 10))
    parameters, optimiser = parameter_tensors(model), Sgd(momentum=0.9)
    programs = {"train/full": train_program(loss, parameters, optimiser)}
    state = {"full": state_tensors(optimiser, parameters)}
    return loss, Recipe("convnet", {}, parameters, state, programs, Schedule(1, settings.batch))


def _batch(loss: TrainingLoss) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    batch = {
        name: generator.random(tuple(each.shape), np.float32)
        for name, each in example_batch(loss.sizes, loss.augmentation).items()
    }
    batch["images"] *= 255
    batch["targets"] /= batch["targets"].sum(axis=1, keepdims=True)
    batch["class_mask"][:] = 1
    return batch


def _onnx_step(
    recipe: Recipe, weights: dict[str, np.ndarray], batch: dict[str, np.ndarray], threads: int
) -> Callable[[], float]:
    stepper = Stepper(recipe, "full", threads)
    states = {f"state.{each.name}": np.zeros(each.shape, np.float32) for each in recipe.state["full"]}
    stepper.load({f"param.{name}": each for name, each in weights.items()} | states)
    for name, buffer in stepper.feeds.items():
        buffer[...] = RATE if name == "lr" else batch[name]
    return stepper.step


def _torch_step(
    loss: TrainingLoss, weights: dict[str, np.ndarray], batch: dict[str, np.ndarray]
) -> Callable[[], float]:
    load_weights(loss.model, weights)
    tensors = {name: torch.from_numpy(each) for name, each in batch.items()}
    optimiser = torch.optim.SGD(loss.model.parameters(), lr=RATE, momentum=0.9)

    def step() -> float:
        optimiser.zero_grad()
        value = loss(**tensors)
        value.backward()
        optimiser.step()
        return float(value.detach())

    return step


def _take_turns(turns: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(WARM_UP + repeats):
        for name, step in turns.items():
            start = time.perf_counter()
            step()
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return times


def _processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
