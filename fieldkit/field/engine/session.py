"""The one door to onnxruntime: check a program, open it with the device's limits, bind a training step once.

Nothing else in fieldkit imports onnxruntime.  Its failures leave here as ProgramError or ResourceError.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

# onnxruntime of 2026 keeps a telemetry session in the temporary folder from its first import on, and would call home.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from fieldkit.bundle.recipe import Recipe
from fieldkit.errors import FieldkitError, ProgramError, ResourceError, UsageError
from fieldkit.field.engine.heap import give_back_memory
from fieldkit.field.programs.extents import check_extents
from fieldkit.field.programs.interface import check_interface
from fieldkit.field.programs.program import check_program

Session: TypeAlias = onnxruntime.InferenceSession

FATAL = 4
# More threads than any device has processors; onnxruntime makes as many as it is told, until memory ends.
MAX_THREADS = 1024
SPINS_BRIEFLY = (1, 26)
"""The first version of onnxruntime that can be told how long to spin."""
OPENING_SECONDS = 120.0
"""How long onnxruntime may take to open a program; HQ's largest take a second on two cores."""
CPU = "CPUExecutionProvider"
_providers: tuple[str, ...] = (CPU,)
"""What runs the programs that are opened, best first; ``field/engine/providers.py`` decides."""
# onnxruntime has no common base for its exceptions, and older versions lack some of them.
_NAMES = (
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "ModelLoadCanceled",
    "ModelLoaded",
    "ModelRequiresCompilation",
    "NoModel",
    "NoSuchFile",
    "NotFound",
    "NotImplemented",
    "RuntimeException",
)
_FAILURES: tuple[type[Exception], ...] = (
    *(getattr(native, name) for name in _NAMES if hasattr(native, name)),
    # Its messages quote the program, which may hold anything.
    UnicodeDecodeError,
    # What a step with bound tensors fails with, for want of memory for one.
    RuntimeError,
)
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate memory", "cannot allocate memory")

onnxruntime.set_default_logger_severity(FATAL)
onnxruntime.disable_telemetry_events()


def set_providers(names: Sequence[str]) -> None:
    """Open programs from here on with these of onnxruntime's providers, best first."""
    global _providers
    _providers = tuple(names)


def providers() -> tuple[str, ...]:
    """What programs are opened with, best first."""
    return _providers


def built_in_providers() -> tuple[str, ...]:
    """The providers that this onnxruntime was built with."""
    return tuple(onnxruntime.get_available_providers())


def available_threads() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runtime_version() -> str:
    """The version of onnxruntime in use."""
    return str(onnxruntime.__version__)


def open_session(program: bytes, where: str, threads: int | None = None, frugal: bool = False) -> Session:
    """A session of ``program`` after it was checked against the program contract.

    where: what messages call the program.  threads: None takes every processor this process may use.
    frugal: give memory back between any two operators: 70 to 85 % of the memory, in up to three times the time.
    Raises ProgramError for a program that breaks the contract or that onnxruntime refuses, UsageError for a number of
    threads out of range.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError("no number of threads", where="threads", found=threads, expected=f"1 to {MAX_THREADS}")
    check_program(program, where)
    check_extents(program, where)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_threads()
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = FATAL
    # Measured on two cores (ConvNet-3, width 32 and 64): planning memory ahead holds it twice, 297 MB instead of 193,
    # and is no faster.
    options.enable_mem_pattern = False
    # onnxruntime's plan of which tensor reuses which one's memory holds more than an allocator needs that takes and
    # frees each when it is due: 586 MB instead of 449 for mobilenet's step, 207 instead of 173 for resnet's, in the
    # same time (batch 100, 32x32, 2 threads: 0.95 to 1.06 of it) and with the same bits.
    options.enable_mem_reuse = False
    if frugal:
        options.enable_cpu_mem_arena = False
        give_back_memory()
    for name, value in _waiting().items():
        options.add_session_config_entry(f"session.intra_op.{name}", value)
    # Else a program that is ONNX to the check above and also begins like onnxruntime's own format is run as the latter.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    with _failures_named(where), _deadline(options):
        # Without fallback, since onnxruntime would announce it on stdout, where our data goes.
        return Session(program, sess_options=options, providers=list(_providers), enable_fallback=0)


@contextmanager
def _deadline(options: onnxruntime.SessionOptions) -> Iterator[None]:
    """Let onnxruntime give up opening a program after OPENING_SECONDS."""
    timer = threading.Timer(OPENING_SECONDS, options.set_load_cancellation_flag, [True])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _waiting() -> dict[str, str]:
    """How a thread waits for its share of a step.

    Threads that spin while they wait take up to twice the time as soon as other work shares the processors.  Ten
    microseconds, about the time between two nodes, save 13 to 16 % of small steps on two idle processors and cost
    nothing measurable when one of them is busy.  Older versions of onnxruntime spin without end or not at all.
    """
    version = tuple(int(each) for each in runtime_version().split(".")[:2])
    if version < SPINS_BRIEFLY:
        return {"allow_spinning": "0"}
    return {"allow_spinning": "1", "spin_duration_us": "10"}


def check_scope(recipe: Recipe, scope: str) -> None:
    """Raise UsageError, which lists the scopes there are, unless ``recipe`` has a train program of ``scope``."""
    if f"train/{scope}" not in recipe.programs:
        known = [name.partition("/")[2] for name in recipe.programs if name.startswith("train/")]
        raise UsageError("no train program of this scope", where=recipe.name, found=scope, expected=", ".join(known))


def run_session(session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray], where: str) -> list[np.ndarray]:
    """Every output of ``session`` for these inputs."""
    with _failures_named(where):
        return list(session.run(None, dict(feeds)))


class Stepper:
    """A train program with all its tensors bound once, so that a step moves no parameters and makes no arrays.

    What a step changes lives in two sets of buffers.  A step reads one set and writes the other; the next step goes the
    opposite way.  What it leaves as it is (the frozen part of a scope) is in both, and held once.  What the host feeds
    (``feeds``) are numpy arrays that onnxruntime reads in place: fill them, call ``step``.

    feeds: images, targets, weights, class_mask, lr, step, aug and random.<i>, as far as the program asks for them.
    """

    def __init__(self, recipe: Recipe, scope: str, threads: int | None = None, frugal: bool = False) -> None:
        check_scope(recipe, scope)
        program = recipe.programs[f"train/{scope}"]
        self.where = f"recipe {recipe.name}, program train/{scope}"
        self.session = open_session(program, self.where, threads, frugal)
        check_interface(self.session.get_inputs(), self.session.get_outputs(), recipe, scope)
        tensors = [(f"param.{each.name}", each.shape) for each in recipe.parameters]
        tensors += [(f"state.{each.name}", each.shape) for each in recipe.state[scope]]
        outputs = [each.name for each in self.session.get_outputs()]
        self._moved = [name.removeprefix("new.") for name in outputs if name != "loss"]
        first = {name: np.zeros(shape, np.float32) for name, shape in tensors}
        moved = {name: np.zeros_like(first[name]) for name in self._moved}
        self._sets = [first, first | moved]
        self._losses = [np.zeros((), np.float32) for _ in range(2)]
        self.feeds = {
            each.name: np.zeros(each.shape, np.float32)
            for each in self.session.get_inputs()
            if each.name not in self._sets[0]
        }
        self._current = 0
        with _failures_named(self.where):
            self._bindings = self._bind()

    def step(self) -> float:
        """Run one step on what ``feeds`` holds and return its loss."""
        try:
            self.session.run_with_iobinding(self._bindings[self._current])
        except _FAILURES as error:
            raise _named(error, self.where) from error
        loss = float(self._losses[self._current])
        self._current = 1 - self._current
        return loss

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Overwrite the current parameters and states, by their names with prefix (``param.``, ``state.``)."""
        for name, buffer in self._sets[self._current].items():
            buffer[...] = tensors[name]

    def tensors(self) -> dict[str, np.ndarray]:
        """Copies of the current parameters and states, by their names with prefix."""
        return {name: buffer.copy() for name, buffer in self._sets[self._current].items()}

    def _bind(self) -> list[onnxruntime.IOBinding]:
        wrap = onnxruntime.OrtValue.ortvalue_from_numpy
        values = [{name: wrap(buffer) for name, buffer in each.items()} for each in self._sets]
        losses = [wrap(each) for each in self._losses]
        feeds = {name: wrap(buffer) for name, buffer in self.feeds.items()}
        bindings = []
        for source, target in ((0, 1), (1, 0)):
            binding = self.session.io_binding()
            for name in (each.name for each in self.session.get_inputs()):
                binding.bind_ortvalue_input(name, feeds[name] if name in feeds else values[source][name])
            for name in self._moved:
                binding.bind_ortvalue_output(f"new.{name}", values[target][name])
            binding.bind_ortvalue_output("loss", losses[source])
            bindings.append(binding)
        return bindings


@contextmanager
def _failures_named(where: str) -> Iterator[None]:
    """Turn onnxruntime's exceptions into fieldkit's."""
    try:
        yield
    except _FAILURES as error:
        raise _named(error, where) from error


def _named(error: Exception, where: str) -> FieldkitError:
    reason = str(error)
    if any(sign in reason.lower() for sign in _OUT_OF_MEMORY):
        return ResourceError(
            "not enough memory", where=where, remedy="free memory, or choose a smaller recipe or batch"
        )
    if type(error).__name__ == "ModelLoadCanceled":
        return ResourceError(
            "opening this program took too long",
            where=where,
            found=f"more than {OPENING_SECONDS:g} s",
            remedy="choose a smaller recipe, or a faster machine",
        )
    return ProgramError(
        "onnxruntime cannot run this program",
        where=where,
        found=reason.splitlines()[0][:300] if reason else type(error).__name__,
        expected=f"a program that onnxruntime {runtime_version()} runs",
        remedy="install a newer onnxruntime, or build the bundle again with fieldkit build",
    )
