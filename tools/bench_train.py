"""``fieldkit train`` as a whole process beside a plain torch script that does the same training.

    python tools/bench_train.py [BUNDLE] [--repeats 5] [--threads 2]

Prints the medians of wall time and peak memory and their ratios (goals: wall <= 0.8, memory <= 0.5).  The two run in
turn in the interpreter that runs this, which needs the extra fieldkit[hq].
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.reader import read_bundle
from fieldkit.field.device.description import processor

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"wall": 0.8, "memory": 0.5}


def write_work(bundle: Bundle, threads: int, path: Path) -> None:
    """What plain_torch.py needs to know, in one npz file."""
    recipe = bundle.recipes[bundle.manifest.recipes[0]]
    samples = bundle.training_set()
    schedule = recipe.schedule
    settings = {
        "architecture": dict(recipe.architecture),
        "augmentation": recipe.augmentation.to_json(),
        "batch": schedule.batch,
        "optimiser": "adamw" if any(each.name.startswith("square.") for each in recipe.state["full"]) else "sgd",
        "threads": threads,
    }
    probe = bundle.probe
    np.savez(
        path,
        settings=np.array(json.dumps(settings)),
        images=samples.images,
        labels=samples.targets,
        rates=np.array([schedule.learning_rate(step) for step in range(schedule.steps)], np.float64),
        mean=np.array(bundle.manifest.radiometry.mean, np.float32),
        std=np.array(bundle.manifest.radiometry.std, np.float32),
        probe_images=np.zeros(0) if probe is None else probe.images,
        probe_targets=np.zeros(0) if probe is None else probe.targets,
    )


def run(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak resident megabytes of a process."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=ROOT / "bundles" / "mnist-10.h5")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    bundle = read_bundle(chosen.bundle)
    recipe = bundle.recipes[bundle.manifest.recipes[0]]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work.npz"
        write_work(bundle, chosen.threads, work)
        threads = str(chosen.threads)
        field = ["-m", "fieldkit", "train", str(chosen.bundle.resolve()), "--threads", threads, "--quiet"]
        commands = {
            "fieldkit": [sys.executable, *field, "-o", f"{folder}/model.onnx"],
            "torch": [sys.executable, str(ROOT / "tools" / "plain_torch.py"), str(work), f"{folder}/model.pt"],
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(chosen.repeats):
            for name, command in commands.items():
                found[name].append(run(command))
    versions = ", ".join(f"{name} {version(name)}" for name in ("fieldkit", "onnxruntime", "torch", "numpy"))
    print(
        f"{processor()}, {os.cpu_count()} processors, {threads} threads; Python {platform.python_version()}, {versions}"
    )
    print(f"{chosen.bundle.name}: {recipe.name}, {recipe.schedule.steps} steps of {recipe.schedule.batch} images")
    middle = {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in found.items()}
    for name, (wall, memory) in middle.items():
        print(f"{name:9} {wall:8.2f} s {memory:7.0f} MB   median of {chosen.repeats}")
    for place, (what, goal) in enumerate(GOALS.items()):
        ratio = middle["fieldkit"][place] / middle["torch"][place]
        print(f"{what} ratio {ratio:.2f} (goal <= {goal}): {'reached' if ratio <= goal else 'MISSED'}")


main()
