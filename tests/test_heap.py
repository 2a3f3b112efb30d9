"""The C library's heap: what is freed is kept, or given back, as was asked."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# How many pages the kernel had to provide while 100 arrays of 1 MB came and went: too small for pages of 2 MB.
CODE = """
import resource
import numpy as np
from fieldkit.field.engine import heap
for setting in {settings}:
    getattr(heap, setting)()
np.ones(1 << 17)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    np.ones(1 << 17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*settings: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE.format(settings=settings)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_memory_that_is_kept_is_not_mapped_anew() -> None:
    given_back, kept = faults("give_back_memory"), faults("keep_memory")
    assert given_back > 1_000
    assert kept < given_back / 20
    assert faults("keep_memory", "give_back_memory") > 1_000
    assert faults("give_back_memory", "keep_memory") < given_back / 20
