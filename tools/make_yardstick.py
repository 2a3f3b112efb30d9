"""Makes the small bundle that ``fieldkit doctor`` measures every device with: ``field/measurement/yardstick.h5``.

    python tools/make_yardstick.py [OUTPUT]

Its images are made up, ten flat colours, since only the speed of its recipe matters.  Times are compared across devices
and versions, so it is made anew only where the old one can no longer be read.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    "--name yardstick --ipc 1 --method random --iterations 1 --recipe convnet:width=32 --batch 32 --steps 10 --probe 10"
)
CLASSES, EACH = 10, 12


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "fieldkit" / "field" / "yardstick.h5"
    labels = np.arange(CLASSES * EACH) % CLASSES
    counts = (25 * labels[:, None] + 7 * np.arange(3) + np.arange(len(labels))[:, None] // CLASSES).astype(np.uint8)
    images = np.broadcast_to(counts[:, None, None, :], (len(labels), 32, 32, 3))
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "colours.npz"
        np.savez(data, x_train=images, y_train=labels)
        command = [sys.executable, "-m", "fieldkit", "build", str(data), "-o", str(output), *OPTIONS.split()]
        subprocess.run([*command, "--threads", "1"], check=True)


if __name__ == "__main__":
    main()
