"""Time and memory of one training step: the compiled program against torch eager doing the same step.

    python tools/bench_step.py [--recipe convnet:width=128]... [--batch 100]... [--size 32]... [--scope full]
                               [--threads 2] [--repeats 9] [--memory] [--compile]

Both do forward, soft-label cross-entropy, backward and SGD with momentum on the same batch.  They take turns in one
process, a pause and an unmeasured step before each measured one, and the medians are compared.  --memory runs each
alone in a process of its own for some steps and compares the peaks of resident memory; --compile takes torch.compile's
time too, where it works.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldkit.bundle.radiometry import Radiometry, default_bands
from fieldkit.bundle.recipe import Augmentation, Initial, Recipe, Schedule
from fieldkit.bundle.weights import initial_weights
from fieldkit.cli.build import recipe as parsed
from fieldkit.field.device.description import processor
from fieldkit.field.engine.session import Stepper, runtime_version
from fieldkit.field.programs.interface import RANDOM
from fieldkit.hq.compiler.optimisers import Sgd
from fieldkit.hq.compiler.programs import Sizes, Tensors, TrainingLoss, example_batch, train_program
from fieldkit.hq.compiler.scopes import set_modes, trained_parameters
from fieldkit.hq.compiler.updates import Update
from fieldkit.hq.models import build_model
from fieldkit.hq.models.laws import load_weights

ALONE = Path(__file__).with_name("step_alone.py")
RATE = 0.01
WARM_UP = 2
PAUSE = 0.1
CLASSES = 10
RECIPES = ["convnet:width=128", "resnet", "mobilenet", "vit", "mlp"]
Case = tuple[str, int, int]


def main() -> None:
    settings = _settings()
    torch.set_num_threads(settings.threads)
    cases = list(itertools.product(settings.recipe, settings.batch, settings.size))
    print(f"machine: {processor()}, {platform.system()}, Python {platform.python_version()}")
    print(f"versions: torch {torch.__version__}, onnxruntime {runtime_version()}")
    print(f"{settings.threads} threads, scope {settings.scope}; ms, medians of {settings.repeats} in turn (low-high)")
    ratios = [_report(settings, case) for case in cases]
    print(f"median ratio {statistics.median(ratios):.3f}, largest {max(ratios):.3f}, {len(ratios)} cases")


def _settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", action="append", metavar="NAME[:KEY=VALUE,...]")
    parser.add_argument("--batch", action="append", type=int)
    parser.add_argument("--size", action="append", type=int)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--scope", default="full")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--compile", action="store_true")
    settings = parser.parse_args()
    settings.recipe = settings.recipe or RECIPES
    settings.batch = settings.batch or [16, 100]
    settings.size = settings.size or [32, 64]
    return settings


def _report(settings: argparse.Namespace, case: Case) -> float:
    """Measure one case, print its line, return onnx's time as a share of torch's."""
    loss, recipe = _compiled(settings, case)
    weights = initial_weights(recipe.parameters, Initial(), 0)
    turns = {"onnx": _onnx_step(settings, recipe, weights, loss), "torch": _torch_step(settings, loss, weights)}
    if settings.compile:
        turns["compiled"] = _torch_step(settings, loss, weights, compiled=True)
    times = _take_turns(turns, settings.repeats)
    medians = {name: statistics.median(each) for name, each in times.items()}
    shown = [
        f"{name} {medians[name] * 1e3:.1f} ({min(each) * 1e3:.1f}-{max(each) * 1e3:.1f})"
        for name, each in times.items()
    ]
    ratio = medians["onnx"] / medians["torch"]
    text, batch, size = case
    line = f"{text}, batch {batch}, {size}x{size}: {', '.join(shown)}, ratio {ratio:.3f}"
    if settings.compile:
        line += f", {medians['onnx'] / medians['compiled']:.3f} of torch.compile"
    if settings.memory:
        peaks = _peaks(settings, case, loss, recipe)
        line += f", memory {peaks['onnx']:.0f} / {peaks['torch']:.0f} MB = {peaks['onnx'] / peaks['torch']:.3f}"
    print(line, flush=True)
    return ratio


def _compiled(settings: argparse.Namespace, case: Case) -> tuple[TrainingLoss, Recipe]:
    """The train program alone, without its proof of parity, which takes longer than the measurement."""
    text, batch, size = case
    spec, shape = parsed(text), (settings.channels, size, size)
    model = build_model(spec.architecture, spec.options, shape, CLASSES)
    bands = default_bands(settings.channels)
    radiometry = Radiometry(bands, "uint8", (120.0,) * len(bands), (60.0,) * len(bands))
    loss = TrainingLoss(model, radiometry, Augmentation(), Sizes(batch, shape, CLASSES))
    tensors = Tensors.of(model)
    made = train_program(loss, tensors, Update(Sgd(momentum=0.9)), settings.scope)
    programs, state = {f"train/{settings.scope}": made.program}, {settings.scope: made.state}
    return loss, Recipe("bench", {}, tensors.all, state, programs, Schedule(1, batch))


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
    settings: argparse.Namespace, recipe: Recipe, weights: dict[str, np.ndarray], loss: TrainingLoss
) -> Callable[[], float]:
    stepper = Stepper(recipe, settings.scope, settings.threads)
    states = {f"state.{each.name}": np.zeros(each.shape, np.float32) for each in recipe.state[settings.scope]}
    stepper.load({f"param.{name}": each for name, each in weights.items()} | states)
    batch, generator = _batch(loss), np.random.default_rng(1)
    for name, buffer in stepper.feeds.items():
        if name.startswith(RANDOM):
            buffer[...] = generator.random(buffer.shape)
        else:
            buffer[...] = RATE if name == "lr" else batch[name]
    return stepper.step


def _torch_step(
    settings: argparse.Namespace, loss: TrainingLoss, weights: dict[str, np.ndarray], compiled: bool = False
) -> Callable[[], float]:
    load_weights(loss.model, weights)
    trained = trained_parameters(loss.model, settings.scope)
    set_modes(loss.model, trained)
    for name, each in loss.model.named_parameters():
        each.requires_grad_(name in trained)
    tensors = {name: torch.from_numpy(each) for name, each in _batch(loss).items()}
    moving = [each for each in loss.model.parameters() if each.requires_grad]
    optimiser = torch.optim.SGD(moving, lr=RATE, momentum=0.9)
    forward: Any = torch.compile(loss) if compiled else loss

    def step() -> float:
        optimiser.zero_grad()
        value = forward(**tensors)
        value.backward()
        optimiser.step()
        return float(value.detach())

    return step


def _take_turns(turns: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in turns}
    for turn in range(WARM_UP + repeats):
        for name, step in turns.items():
            # The threads of one side wait for work by spinning, in the other's time; and a first step wakes one's own.
            time.sleep(PAUSE)
            step()
            start = time.perf_counter()
            step()
            if turn >= WARM_UP:
                times[name].append(time.perf_counter() - start)
    return times


def _peaks(settings: argparse.Namespace, case: Case, loss: TrainingLoss, recipe: Recipe) -> dict[str, float]:
    """Peaks of resident memory, in MB, of two processes that make steps of one kind each."""
    spec = parsed(case[0])
    work = {
        "recipe": recipe,
        "batch": _batch(loss),
        "threads": settings.threads,
        "steps": WARM_UP + settings.repeats,
        "model": (spec.architecture, spec.options, loss.sizes.input_shape, CLASSES),
        "trained": trained_parameters(loss.model, settings.scope),
    }
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.pickle"
        path.write_bytes(pickle.dumps(work))
        for kind in ("onnx", "torch"):
            command = [sys.executable, str(ALONE), kind, str(path)]
            peaks[kind] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return peaks


if __name__ == "__main__":
    main()
