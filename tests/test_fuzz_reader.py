"""The fuzzer's own parts: a child's end is told apart, cases repeat, and mended checksums are HDF5's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from hostile.making import PARTS, WHOLE

from fieldkit.bundle.seal import USER_BLOCK

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import mutations

GOLDEN = Path(__file__).parent / "golden" / "tiny-v1.h5"
# In a process of its own, since one that forks should have no threads.
DEEDS = """
import os, signal, sys
from ordeal import undergo
from fieldkit.errors import DamagedBundle
def refuse(): raise DamagedBundle("no")
def fail(): raise KeyError("x")
def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def loop():
    while True: pass
def take(): bytes(2**31)
def leave(): os._exit(3)
for deed in (int, refuse, fail, crash, loop, take, leave):
    found = undergo(deed, 1, 64)
    print(found.kind, found.code)
"""


def test_every_end_of_a_child_is_told_apart() -> None:
    done = subprocess.run([sys.executable, "-c", DEEDS], cwd=TOOLS, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [
        "accepted 0",
        "refused 4",
        "failed 1",
        f"crashed {-signal.SIGSEGV}",
        f"hung {-signal.SIGXCPU}",
        "refused 5",
        "crashed 3",
    ], done.stderr


def test_checksums_that_are_right_stay_as_hdf5_wrote_them() -> None:
    for payload in mutations.forms(PARTS).values():
        mended = bytearray(payload)
        mutations._mend(mended)
        assert mended == payload
    spoilt = bytearray(WHOLE[USER_BLOCK:])
    spoilt[44] ^= 1
    mutations._mend(spoilt)
    assert spoilt == WHOLE[USER_BLOCK:]


def test_a_seed_gives_the_same_mutations() -> None:
    payload = WHOLE[USER_BLOCK:]
    for mutate in (mutations.mutate_payload, mutations.mutate_program):
        first, second = (mutate(payload, random.Random(4)) for _ in range(2))
        assert first == second
    changed = {mutations.mutate_payload(payload, random.Random(seed)) for seed in range(50)}
    assert len(changed) > 45


def test_a_minute_of_it_in_a_second(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", TOOLS / "fuzz_reader.py", "mutate", GOLDEN, "--minutes", "0.02"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"crashed": 0, "hung": 0' in done.stdout


def test_a_corpus_is_reported_file_by_file(tmp_path: Path) -> None:
    (tmp_path / "sound.h5").write_bytes(WHOLE)
    (tmp_path / "foreign.h5").write_bytes(WHOLE[USER_BLOCK:])
    os.mkdir(tmp_path / "more")
    (tmp_path / "more" / "noise.onnx").write_bytes(b"noise")
    command = [sys.executable, str(TOOLS / "fuzz_reader.py"), "corpus", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("foreign.h5: refused  case: an HDF5 file, but not a fieldkit bundle")
    assert lines[1].startswith("foreign.h5 (sealed): refused  case: the parts do not fit together: name: the statement")
    assert lines[2].startswith("more/noise.onnx: refused")
    assert lines[3] == "sound.h5: accepted  "
