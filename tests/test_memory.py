"""A build's memory does not grow with the data set: measured under the system's own limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

pytestmark = pytest.mark.hq

# The first build is of a few images: it takes what any build takes.  The limit leaves the second one half of what
# its images take, and the control, which keeps them in memory, must fail.
SCRIPT = """
import resource, sys
from functools import partial
from pathlib import Path
import numpy as np
from fieldkit.bundle.hdf5 import h5py
from fieldkit.errors import ResourceError
from fieldkit.hq import preparation
from fieldkit.hq.building import build
from fieldkit.hq.distil.driver import Budget
from fieldkit.hq.spec import RecipeSpec, Spec

folder, size = Path(sys.argv[1]), 128 << 20
STEP = 1 << 13

def spec(count):
    path, rng = folder / f"{count}.h5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        images = file.create_dataset("x_train", (count, 32, 32), "u1")
        for first in range(0, count, STEP):
            images[first : first + STEP] = rng.integers(0, 256, (min(STEP, count - first), 32, 32), np.uint8)
        file["y_train"] = np.arange(count) % 2
    recipe = RecipeSpec("mlp", {"depth": 1, "width": 4})
    return Spec(str(path), ipc=1, method="random", recipes=(recipe,), steps=2, budget=Budget(iterations=1), threads=1)

few, many = spec(4096), spec(size >> 10)
build(few, folder / "few.h5")
(held,) = (int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (held + size // 2,) * 2)
Storage = preparation.Storage
preparation.Storage = partial(Storage, most=size // 4)
build(many, folder / "many.h5")
preparation.Storage = partial(Storage, most=2 * size)
try:
    build(many, folder / "many.h5")
except ResourceError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_a_build_needs_no_memory_for_its_images(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "not enough memory for the images" in ran.stdout
    # Neither the files of the images nor the folder that held them are left.
    assert sorted(each.name for each in tmp_path.iterdir()) == ["131072.h5", "4096.h5", "few.h5", "many.h5"]
