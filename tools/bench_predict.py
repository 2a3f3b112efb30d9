"""Memory and speed of ``fieldkit predict`` over a folder of very many images.

    python tools/bench_predict.py                    # 100,000 images of bundles/mnist-1.h5's probe
    python tools/bench_predict.py --images 20000 --format csv --batch 64

A model is trained from the bundle (one step: speed does not depend on what it has learnt), the probe's images are
written as PNG files, and hard links to them fill folders of 1,000.  Then ``fieldkit predict FOLDER -o answers`` runs as
a process of its own, whose resident memory is read from /proc ten times a second.  Printed are the answers' rate, the
memory at each tenth of the run, and its peak; the memory is flat if the tenths are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import fieldkit

ROOT = Path(__file__).parents[1]
FOLDER_SIZE = 1000
SECONDS_BETWEEN = 0.1
# File systems limit how many names one file may have.
MOST_LINKS = 30_000


def main() -> None:
    """Make the folder, run the command, and print what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "mnist-1.h5")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--format", default="jsonl")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        bundle = fieldkit.read_bundle(asked.bundle)
        fieldkit.save_model(folder / "model.onnx", fieldkit.train(bundle, steps=1), bundle)
        fill(folder / "images", bundle.probe.images, asked.images)
        options = ["--format", asked.format, "--batch", str(asked.batch), "--threads", str(asked.threads)]
        command = ["predict", folder / "model.onnx", folder / "images", "-o", folder / "answers", "--quiet", *options]
        begin = time.monotonic()
        memory = watched([sys.executable, "-m", "fieldkit", *map(str, command)])
        seconds = time.monotonic() - begin
        lines = sum(1 for _ in (folder / "answers").open("rb"))
    tenths = [memory[place * (len(memory) - 1) // 10] for place in range(1, 11)]
    found = {
        "images": asked.images,
        "lines": lines,
        "seconds": round(seconds, 1),
        "images_per_second": round(asked.images / seconds),
        "rss_mb_at_each_tenth": [round(each / 1024, 1) for each in tenths],
        "peak_rss_mb": round(max(memory) / 1024, 1),
    }
    print(json.dumps(found, indent=2))


def fill(folder: Path, images: Sequence[object], count: int) -> None:
    """``count`` names of PNG files below ``folder``, in folders of 1,000."""
    originals = folder.parent / "originals"
    originals.mkdir()
    for place in range(count):
        original = originals / f"{place % len(images)}-{place // len(images) // MOST_LINKS}.png"
        if not original.exists():
            Image.fromarray(images[place % len(images)][0]).save(original)
        target = folder / f"{place // FOLDER_SIZE:04d}"
        if place % FOLDER_SIZE == 0:
            target.mkdir(parents=True)
        (target / f"{place:07d}.png").hardlink_to(original)


def watched(command: Sequence[str]) -> list[int]:
    """Run a command to its end; its resident memory over time, in KB."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    memory = []
    while process.poll() is None:
        memory += resident(process.pid)
        time.sleep(SECONDS_BETWEEN)
    if process.returncode:
        raise SystemExit(process.returncode)
    return memory


def resident(process: int) -> list[int]:
    """The resident memory of a process now, in KB; nothing once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]


if __name__ == "__main__":
    main()
