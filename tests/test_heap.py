"""The C library's heap: what is freed is kept, or given back, as was asked."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# How many pages the kernel had to provide while 100 arrays of 2 MB came and went.
CODE = """
import resource
import numpy as np
from fieldkit.field.engine import heap
heap.{setting}()
np.ones(1 << 18)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    np.ones(1 << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(setting: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE.format(setting=setting)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_memory_that_is_kept_is_not_mapped_anew() -> None:
    given_back, kept = faults("give_back_memory"), faults("keep_memory")
    assert given_back > 1_000
    assert kept < given_back / 20
