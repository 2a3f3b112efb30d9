"""A child that reads what nobody vouches for: what it may not do, and what becomes of one that tries."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fieldkit.errors import DamagedBundle, IncompatibleBundle, UsageError
from fieldkit.field.inspection import confinement
from fieldkit.field.inspection.confinement import confined


def prepare(request: dict[str, Any]) -> None:
    """Of this module as a task: nothing but what is loaded with it."""


def perform(request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Of this module as a task: what the request names."""
    return DEEDS[request["deed"]](data)


def _open_file(data: bytes) -> tuple[dict[str, Any], bytes]:
    return {"read": Path("/etc/passwd").read_text()}, b""


def _connect(data: bytes) -> tuple[dict[str, Any], bytes]:
    socket.socket()
    return {}, b""


def _start(data: bytes) -> tuple[dict[str, Any], bytes]:
    subprocess.run(["/bin/true"], check=True)
    return {}, b""


def _take_memory(data: bytes) -> tuple[dict[str, Any], bytes]:
    return {"length": len(bytes(2**31))}, b""


def _crash(data: bytes) -> tuple[dict[str, Any], bytes]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}, b""


def _loop(data: bytes) -> tuple[dict[str, Any], bytes]:
    while True:
        pass


def _sleep(data: bytes) -> tuple[dict[str, Any], bytes]:
    time.sleep(100)
    return {}, b""


def _talk(data: bytes) -> tuple[dict[str, Any], bytes]:
    for _ in range(64):
        sys.stdout.buffer.write(bytes(2**16))
        sys.stdout.buffer.flush()
    return {}, b""


def _refuse(data: bytes) -> tuple[dict[str, Any], bytes]:
    raise IncompatibleBundle("not for us", where="here", found="a", expected="b", remedy="c")


def _lie(data: bytes) -> tuple[dict[str, Any], bytes]:
    error = UsageError("x")
    error.message = "\x1b[2Jcleared"
    raise error


DEEDS: dict[str, Callable[[bytes], tuple[dict[str, Any], bytes]]] = {
    "echo": lambda data: ({"length": len(data)}, data),
    "open": _open_file,
    "connect": _connect,
    "start": _start,
    "memory": _take_memory,
    "crash": _crash,
    "loop": _loop,
    "sleep": _sleep,
    "talk": _talk,
    "refuse": _refuse,
    "lie": _lie,
}


# What the child runs in place of serving its own tasks: with less patience, and a task more.
CHILD = """
import sys
sys.path[:] = {paths}
import fieldkit.field.inspection.confinement as it
it.TASKS["deeds"], it.FREE_SECONDS, it.MAX_ANSWER = "test_confinement", 1, 2**20
it.serve()
"""


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Any], bytes]]:
    """Run a deed of this module in a confined child."""
    code = CHILD.format(paths=[str(Path(__file__).parent), *sys.path])
    monkeypatch.setattr(confinement, "isolated", lambda module: [sys.executable, "-I", "-c", code])
    return lambda deed, data=b"": confined("deeds", {"deed": deed}, data, "file.h5")


def test_it_gets_the_data_and_gives_its_answer(task: Any) -> None:
    assert task("echo", b"\0data\n" * 9) == ({"length": 54}, b"\0data\n" * 9)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("open", "Too many open files"),
        ("connect", "Too many open files"),
        ("start", "Too many open files|Resource temporarily unavailable"),
        ("memory", "MemoryError"),
        ("crash", "a crash"),
        ("talk", "File too large"),
        ("loop", "more time or memory"),
    ],
)
def test_what_it_may_not_do_ends_it(deed: str, reason: str, task: Any) -> None:
    with pytest.raises(DamagedBundle, match=f"file.h5: its reader did not survive it; found .*({reason})") as caught:
        task(deed)
    assert caught.value.exit_code == 4
    assert caught.value.remedy


def test_one_that_sleeps_is_ended(task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "PATIENCE", 0.05)
    with pytest.raises(DamagedBundle, match="more time or memory"):
        task("sleep")


def test_its_errors_arrive_whole_and_of_a_kind_that_files_cause(task: Any) -> None:
    with pytest.raises(IncompatibleBundle, match="here: not for us; found a; expected b\n  remedy: c"):
        task("refuse")
    with pytest.raises(UsageError, match="cleared"):
        task("lie")


def test_a_planted_module_is_not_imported(bundle_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('planted')")
    (tmp_path / "bundle.h5").write_bytes(bundle_file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-c", "from fieldkit.cli.main import main; main(['inspect', 'bundle.h5', '--json'])"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "handmade"


def test_the_parent_of_an_inspection_never_loads_hdf5(bundle_file: Path) -> None:
    code = "import sys; from fieldkit.field.inspection.inspecting import inspect_bundle; inspect_bundle(sys.argv[1]); "
    code += "print(sorted({'h5py', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle_file)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_nobody_but_inspect_is_served() -> None:
    assert set(confinement.TASKS) == {"inspect"}
