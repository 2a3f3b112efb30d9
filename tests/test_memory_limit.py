"""``--max-memory`` is kept: under the system's own limit a training ends that fails without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BUNDLE = Path(__file__).parents[1] / "bundles" / "mnist-10.h5"

# The limit on the address space leaves as much as --max-memory does, and the stack of the thread that feeds the steps.
SCRIPT = """
import json, resource, sys
from pathlib import Path
from fieldkit.bundle.reader import read_bundle
from fieldkit.errors import ResourceError
from fieldkit.field.endurance.conditions import Conditions
from fieldkit.field.device.description import held_memory, peak_memory
from fieldkit.field.models.production import Order, train_model

bundle, limit, told = read_bundle(sys.argv[1]), int(sys.argv[2]), []
(pages,) = (int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmSize:"))
stack = resource.getrlimit(resource.RLIMIT_STACK)[0]
space = pages + limit - held_memory() + (stack if stack > 0 else 8 << 20)
resource.setrlimit(resource.RLIMIT_AS, (space, space))
kept = Conditions(threads=1, max_memory=limit if sys.argv[3] == "kept" else None, tell=told.append)
try:
    train_model(bundle, "model.onnx", Order(steps=2), kept)
    answer = "done"
except (ResourceError, MemoryError) as error:
    answer = str(error)
print(json.dumps({"answer": answer, "told": told, "peak": peak_memory()}))
"""


def trained(folder: Path, limit: int, mode: str) -> dict[str, object]:
    command = [sys.executable, "-c", SCRIPT, str(BUNDLE), str(limit), mode]
    ran = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        # Each thread of glibc else reserves 64 MiB of addresses for itself.
        env=os.environ | {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, object] = json.loads(ran.stdout)
    return answer


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_a_limit_is_kept_where_a_training_without_it_fails(tmp_path: Path) -> None:
    limit = 175_000_000
    kept = trained(tmp_path, limit, "kept")
    assert kept["answer"] == "done"
    assert "to keep to the limit" in str(kept["told"])
    assert isinstance(kept["peak"], int)
    assert kept["peak"] <= limit
    (tmp_path / "model.onnx").unlink()
    assert "not enough memory" in str(trained(tmp_path, limit, "careless")["answer"])
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_a_limit_that_cannot_be_kept_says_what_would_do(tmp_path: Path) -> None:
    answer = str(trained(tmp_path, 120_000_000, "kept")["answer"])
    assert "not enough memory" in answer or "expected at least" in answer
