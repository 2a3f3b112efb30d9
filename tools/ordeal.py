"""One piece of work in a child process with limits, and what became of it."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fieldkit.errors import FieldkitError

# On a machine that is busy with other work, processor time is not time on the clock.
PATIENCE = 12
ACCEPTED, REFUSED, FAILED, CRASHED, HUNG = "accepted", "refused", "failed", "crashed", "hung"


@dataclass(frozen=True)
class Outcome:
    """What became of one piece of work.

    kind: accepted; refused, with one of fieldkit's errors; failed, with any other exception, which is a bug; crashed,
    by a signal; hung, beyond its time.
    code: the exit code that the command line would give.  seconds: of processor time.  mebibytes: peak of the process.
    """

    kind: str
    code: int
    message: str
    seconds: float
    mebibytes: float


def undergo(work: Callable[[], object], seconds: int = 5, mebibytes: int = 512) -> Outcome:
    """Do ``work`` in a forked child with that much processor time, and memory beyond what this process has.

    The caller must have no threads; what the work prints is lost.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _suffer(work, writing, seconds, mebibytes)
    os.close(writing)
    status, usage = _wait(child, seconds * PATIENCE)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    spent = usage.ru_utime + usage.ru_stime
    used = usage.ru_maxrss / 1024
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        kind = HUNG if number in (signal.SIGXCPU, signal.SIGKILL) else CRASHED
        return Outcome(kind, -number, signal.Signals(number).name, spent, used)
    if not answer:
        return Outcome(CRASHED, os.WEXITSTATUS(status), "ended without a word", spent, used)
    told = json.loads(answer)
    return Outcome(told["kind"], told["code"], told["message"], round(spent, 3), round(used, 1))


def _suffer(work: Callable[[], object], writing: int, seconds: int, mebibytes: int) -> None:
    """The child's side; it never returns."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    room = pages * resource.getpagesize() + mebibytes * 2**20
    for what, limit in ((resource.RLIMIT_AS, room), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        # The signal of a soft limit says which it was; that of a hard one could be anybody's.
        resource.setrlimit(what, (limit, limit + 1))
    try:
        work()
        told = (ACCEPTED, 0, "")
    except FieldkitError as error:
        told = (REFUSED, error.exit_code, str(error).splitlines()[0])
    except MemoryError:
        told = (REFUSED, 5, "not enough memory")
    except BaseException as error:
        told = (FAILED, 1, f"{type(error).__name__}: {error}")
    os.write(writing, json.dumps(dict(zip(("kind", "code", "message"), told, strict=True))).encode()[:60_000])
    os._exit(0)


def _wait(child: int, seconds: float) -> tuple[int, resource.struct_rusage]:
    """The child's status and usage once it has ended, which it must do within so many seconds."""
    end, pause = time.monotonic() + seconds, 0.0005
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)
