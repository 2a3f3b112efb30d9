"""Training steps of one kind alone in a process, for their peak of resident memory: see bench_step.py --memory.

    python tools/step_alone.py onnx|torch WORK.pickle

Prints the megabytes.  The onnx side imports neither torch nor the compiler, as on a device; the torch side neither
onnxruntime nor the compiler.
"""

from __future__ import annotations

import pickle
import resource
import sys
from pathlib import Path
from typing import Any


def onnx_steps(work: dict[str, Any]) -> None:
    import numpy as np

    from fieldkit.bundle.weights import initial_weights
    from fieldkit.field.engine.session import Stepper

    recipe, (scope,) = work["recipe"], work["recipe"].state
    stepper = Stepper(recipe, scope, work["threads"])
    weights = initial_weights(recipe.parameters, recipe.initial, 0)
    states = {f"state.{each.name}": np.zeros(each.shape, np.float32) for each in recipe.state[scope]}
    stepper.load({f"param.{name}": each for name, each in weights.items()} | states)
    del weights, states
    for name, buffer in stepper.feeds.items():
        buffer[...] = work["batch"].get(name, 0.5)
    for _ in range(work["steps"]):
        stepper.step()


def torch_steps(work: dict[str, Any]) -> None:
    import torch

    from fieldkit.hq.models import build_model

    torch.set_num_threads(work["threads"])
    name, options, shape, classes = work["model"]
    model = build_model(name, options, shape, classes).train()
    for path, each in model.named_parameters():
        each.requires_grad_(path in work["trained"])
    optimiser = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.01, momentum=0.9)
    images, targets = (torch.from_numpy(work["batch"][each]) for each in ("images", "targets"))
    for _ in range(work["steps"]):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images / 60.0 - 2.0), targets).backward()
        optimiser.step()


def peak() -> float:
    """Peak of resident memory in MB.  Linux counts it anew for each program; getrusage also counts who started it."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    kind, path = sys.argv[1:]
    work = pickle.loads(Path(path).read_bytes())
    {"onnx": onnx_steps, "torch": torch_steps}[kind](work)
    print(peak())


if __name__ == "__main__":
    main()
