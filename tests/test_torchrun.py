"""Two processes under torchrun distil what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

from fieldkit.bundle import read_bundle

pytestmark = pytest.mark.hq

ALONE = [sys.executable, "-m", "fieldkit"]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fieldkit"]
OPTIONS = ["--ipc", "1", "--method", "ridge", "--set", "pool=2", "--set", "real=101", "--iterations", "4"]
OPTIONS += ["--recipe", "convnet:width=4,depth=2", "--steps", "6", "--threads", "1", "--quiet"]


def distilled(command: list[str], output: Path) -> np.ndarray:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        [*command, "build", "digits", "-o", str(output), *OPTIONS], env=environment, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr[-2000:]
    assert made.stdout.count("distilled images") == 1
    return read_bundle(output).training_set().images


def test_two_processes_make_the_set_of_one(tmp_path: Path) -> None:
    alone, together = (distilled(each, tmp_path / f"{len(each)}.h5") for each in (ALONE, TOGETHER))
    # Sums in another order differ in their last bits, which a rounded pixel may show as one level.
    np.testing.assert_allclose(together, alone, atol=1.01 * np.ptp(alone) / 255)
    assert np.mean(together != alone) < 0.2
