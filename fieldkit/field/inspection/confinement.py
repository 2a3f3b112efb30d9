"""Work on bytes that nobody vouches for, in a child process that can do nothing but compute.

libhdf5 is a large C library with a history of memory errors in how it reads hostile files.  A child that crashes, hangs
or takes all memory costs an error message.  What it was handed it reads from memory, and what it answers is bounded;
once its modules are loaded it opens no file and no socket, starts no process, and has a share of time and memory that
goes with the size of what it reads.  It stays a process of the same user: docs/threat-model.md says what that means.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from fieldkit.errors import DamagedBundle, FieldkitError, IncompatibleBundle, ProgramError, ResourceError, UsageError
from fieldkit.field.engine.isolation import isolated

MIB = 2**20
TASKS = {"inspect": "fieldkit.field.inspection.document"}
"""Modules with ``prepare(request)``, which loads all that is needed, and ``perform(request, data)``."""
FREE_MEMORY, MEMORY_RATIO = 256 * MIB, 40
"""Address space beyond that of the loaded modules: so many bytes, and so many for each byte of the data."""
FREE_SECONDS, BYTES_PER_SECOND = 20, 8 * MIB
"""Processor time: so much, and a second for each so many bytes of the data."""
PATIENCE = 6
"""Time on the clock for each second of processor time, on a machine that is busy with other work."""
MAX_ANSWER = 256 * MIB
MAX_DOCUMENT = 64 * MIB
_FILE_ERRORS = (DamagedBundle, IncompatibleBundle, ProgramError, UsageError)


def confined(task: str, request: Mapping[str, Any], data: bytes, where: object) -> tuple[dict[str, Any], bytes]:
    """What ``perform(request, data)`` of a task's module gives in a child process: a JSON object, and bytes.

    where: what the data is called in messages.  Raises the task's own BundleError, DamagedBundle also for a child that
    crashed or took more than its share, ResourceError if no child can be started.
    """
    with _memory("request") as stdin, _memory("answer") as stdout, _memory("complaint") as stderr:
        stdin.write(json.dumps({"task": task, "request": request}).encode() + b"\n")
        stdin.write(data)
        stdin.seek(0)
        status = _run([stdin, stdout, stderr], _seconds(len(data)) * PATIENCE)
        stdout.seek(0)
        stderr.seek(0)
        line, answer = stdout.readline(MAX_DOCUMENT), stdout.read()
        complaint = stderr.read(MIB).decode("utf-8", "replace").strip().rpartition("\n")[2]
    if status != 0:
        raise DamagedBundle(
            "its reader did not survive it",
            where=where,
            found=_ending(status, complaint),
            expected=f"a file that is read within {_seconds(len(data))} s and {_memory_share(len(data)) // MIB} MiB",
            remedy="do not use this file; get it again from where it was made",
        )
    document: dict[str, Any] = json.loads(line)
    if "error" in document:
        raise _restored(document["error"])
    return document["answer"], answer


def serve() -> None:
    """The child's side: load, give up every right, work, answer."""
    header = json.loads(sys.stdin.buffer.readline())
    task, request = import_module(TASKS[header["task"]]), header["request"]
    task.prepare(request)
    data = sys.stdin.buffer.read()
    _give_up(len(data))
    try:
        document, blob = task.perform(request, data)
        line = json.dumps({"answer": document})
    except FieldkitError as error:
        line, blob = json.dumps({"error": _told(error)}), b""
    sys.stdout.buffer.write(line.encode() + b"\n" + blob)


def _give_up(size: int) -> None:
    """Limit this process for good, to what reading ``size`` bytes may take."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    _limit(resource.RLIMIT_AS, pages * resource.getpagesize() + _memory_share(size))
    _limit(resource.RLIMIT_CPU, _seconds(size))
    _limit(resource.RLIMIT_FSIZE, MAX_ANSWER)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NPROC, 0)
    _limit(resource.RLIMIT_NOFILE, 0)


def _limit(what: int, value: int) -> None:
    """Lower a limit, for a process may not raise what it was given."""
    hard = resource.getrlimit(what)[1]
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (allowed, allowed))


def _run(streams: list[Any], seconds: float) -> int:
    """The exit status of a child on these streams; minus a signal's number if one ended it."""
    stdin, stdout, stderr = streams
    try:
        # One thread: others would stand in the address space and could not be started later.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        child = subprocess.Popen(isolated(__name__), stdin=stdin, stdout=stdout, stderr=stderr, env=environment)
    except OSError as error:
        raise ResourceError(
            f"no process could be started to read the file in: {error.strerror}", remedy="end other programs"
        ) from error
    try:
        return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return -signal.SIGALRM
    finally:
        child.kill()
        child.wait()


def _memory(name: str) -> Any:
    """A file that exists in memory alone."""
    return os.fdopen(os.memfd_create(f"fieldkit-{name}"), "w+b")


def _memory_share(size: int) -> int:
    return FREE_MEMORY + MEMORY_RATIO * size


def _seconds(size: int) -> int:
    return FREE_SECONDS + size // BYTES_PER_SECOND


def _ending(status: int, complaint: str) -> str:
    if status in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
        return "more time or memory than a file of its size takes"
    if status < 0:
        return f"a crash (signal {-status})"
    return complaint or f"an end with status {status}"


def _told(error: FieldkitError) -> dict[str, str | None]:
    parts = {name: getattr(error, name) for name in ("message", "where", "found", "expected", "remedy")}
    return {"kind": type(error).__name__, **parts}


def _restored(told: Mapping[str, Any]) -> FieldkitError:
    """The child's error; of a kind that a file's bytes can cause, whatever a child says that was taken over."""
    kind = {each.__name__: each for each in _FILE_ERRORS}.get(told["kind"], DamagedBundle)
    parts = {name: told[name] for name in ("where", "found", "expected", "remedy")}
    return kind(told["message"], **parts)
