"""How long fieldkit takes to start: ``--help`` and ``inspect``, beside Python with numpy and Python alone.

    python tools/bench_start.py [BUNDLE] [--repeats 11] [--modules]

The commands take turns; medians of wall time, and their ratios to ``python -c "import numpy"`` (goals: help <= 0.25 s,
inspect <= 0.6 s).  --modules lists the dearest imports of each.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOALS = {"help": 0.25, "inspect": 0.6}
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=ROOT / "bundles" / "mnist-10.h5")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--modules", action="store_true")
    settings = parser.parse_args()
    commands = {
        "python": ["-c", "pass"],
        "numpy": ["-c", "import numpy"],
        "help": ["-m", "fieldkit", "--help"],
        "inspect": ["-m", "fieldkit", "inspect", str(settings.bundle)],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(settings.repeats):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True, cwd=ROOT)
            times[name].append(time.perf_counter() - began)
    middle = {name: statistics.median(each) for name, each in times.items()}
    for name, seconds in middle.items():
        goal = GOALS.get(name)
        verdict = "" if goal is None else f", goal {goal} s: {'reached' if seconds <= goal else 'MISSED'}"
        spread = f"{min(times[name]):.3f}-{max(times[name]):.3f}"
        print(f"{name:8} {seconds:.3f} s ({spread}), {seconds / middle['numpy']:.2f} of numpy{verdict}")
    for name in GOALS if settings.modules else ():
        print(f"\ndearest imports of {name}, milliseconds")
        for cost, module in _imports(commands[name])[:SHOWN]:
            print(f"{cost / 1000:8.1f}  {module}")


def _imports(command: list[str]) -> list[tuple[int, str]]:
    """Microseconds that each module takes by itself, dearest first, by Python's own account."""
    run = subprocess.run([sys.executable, "-X", "importtime", *command], capture_output=True, text=True, cwd=ROOT)
    lines = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", run.stderr)
    return sorted(((int(own), module) for own, module in lines), reverse=True)


if __name__ == "__main__":
    main()
