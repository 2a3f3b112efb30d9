"""The one door to onnxruntime: check a program, open it with the device's limits, bind a training step once.

Nothing else in fieldkit imports onnxruntime.  Its failures leave here as ProgramError or ResourceError.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from fieldkit.bundle.recipe import Recipe
from fieldkit.errors import FieldkitError, ProgramError, ResourceError, UsageError
from fieldkit.field.program import check_program

Session: TypeAlias = onnxruntime.InferenceSession

FATAL = 4
# More threads than any device has processors; onnxruntime makes as many as it is told, until memory ends.
MAX_THREADS = 1024
SPINS_BRIEFLY = (1, 26)
"""The first version of onnxruntime that can be told how long to spin."""
MAX_VALUES = 2**31
"""Values of one tensor that a training reads or writes."""
FEEDS = ("images", "targets", "weights", "class_mask", "lr", "step", "aug")
RANDOM = "random."
"""What the inputs that take fresh uniform randoms at each step begin with."""
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
)
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "failed to allocate memory", "cannot allocate memory")

onnxruntime.set_default_logger_severity(FATAL)
onnxruntime.disable_telemetry_events()


def available_threads() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def runtime_version() -> str:
    """The version of onnxruntime in use."""
    return str(onnxruntime.__version__)


def open_session(program: bytes, where: str, threads: int | None = None) -> Session:
    """A session of ``program`` after it was checked against the program contract.

    where: what messages call the program.  threads: None takes every processor this process may use.
    Raises ProgramError for a program that breaks the contract or that onnxruntime refuses, UsageError for a number of
    threads out of range.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError("no number of threads", where="threads", found=threads, expected=f"1 to {MAX_THREADS}")
    check_program(program, where)
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
    for name, value in _waiting().items():
        options.add_session_config_entry(f"session.intra_op.{name}", value)
    # Else a program that is ONNX to the check above and also begins like onnxruntime's own format is run as the latter.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    with _failures_named(where):
        # Without fallback, since onnxruntime would announce it on stdout, where our data goes.
        return Session(program, sess_options=options, providers=["CPUExecutionProvider"], enable_fallback=0)


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

    def __init__(self, recipe: Recipe, scope: str, threads: int | None = None) -> None:
        check_scope(recipe, scope)
        program = recipe.programs[f"train/{scope}"]
        self.where = f"recipe {recipe.name}, program train/{scope}"
        self.session = open_session(program, self.where, threads)
        self._check_interface(recipe, scope)
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

    def _check_interface(self, recipe: Recipe, scope: str) -> None:
        """The program's inputs and outputs are those of the contract, float32 and of static shape."""
        inputs = {each.name: each for each in self.session.get_inputs()}
        outputs = {each.name: each for each in self.session.get_outputs()}
        shapes = {f"param.{each.name}": each.shape for each in recipe.parameters}
        states = {f"state.{each.name}": each.shape for each in recipe.state[scope]}
        shapes |= states
        # A parameter may stay as it is, and one that a step only replaces need not be read; a state is carried.
        known = [*states, *(name for name in shapes if name in inputs)]
        faults = [f"input {name} {shapes[name]}" for name in known if not _is_float(inputs.get(name), shapes[name])]
        made = {f"new.{name}": shapes[name] for name in shapes if name in states or f"new.{name}" in outputs}
        faults += [f"output {name} {shape}" for name, shape in made.items() if not _is_float(outputs.get(name), shape)]
        if not any(name.startswith("new.param.") for name in made):
            faults.append("output new.param.<name> of any parameter")
        faults += [f"input {name}" for name in ("images", "targets", "weights", "lr") if name not in inputs]
        faults += [f"static shape of {name}" for name, each in inputs.items() if not _is_float(each, None)]
        unknown = [f"input {name}" for name in inputs if name not in shapes and not _is_fed(name)]
        unknown += [f"output {name}" for name in outputs if name not in {*made, "loss"}]
        if not _is_float(outputs.get("loss"), ()):
            faults.append("output loss ()")
        if not faults:
            faults = _feed_faults({name: tuple(each.shape) for name, each in inputs.items()})
        found = [f"it lacks {', '.join(faults)}"] * bool(faults)
        found += [f"it has {', '.join(unknown)}"] * bool(unknown)
        if found:
            raise ProgramError(
                "a train program breaks the contract",
                where=self.where,
                found="; ".join(found),
                expected="what docs/program.md lists, in float32",
                remedy="build the bundle again with fieldkit build",
            )


def _feed_faults(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Which of the inputs that the host fills have another shape than B images of K classes make them."""
    if len(shapes["images"]) != 4 or len(shapes["targets"]) != 2 or min(shapes["images"] + shapes["targets"]) < 1:
        return ["images (B, C, H, W) and targets (B, K), none of them 0"]
    batch, classes = shapes["images"][0], shapes["targets"][1]
    expected: dict[str, tuple[int, ...]] = {
        "targets": (batch, classes),
        "weights": (batch,),
        "class_mask": (classes,),
        "lr": (),
        "step": (),
        "aug": (batch, (*shapes.get("aug", ()), 0, 0)[1]),
    }
    return [f"{name} {shape}" for name, shape in expected.items() if shapes.get(name, shape) != shape]


def _is_fed(name: str) -> bool:
    """Whether the host fills an input of this name."""
    return name in FEEDS or name.startswith(RANDOM)


def _is_float(node: onnxruntime.NodeArg | None, shape: tuple[int, ...] | None) -> bool:
    """Whether a program's input or output is float32 of ``shape`` (None: any without symbols)."""
    if node is None or node.type != "tensor(float)":
        return False
    if not all(isinstance(length, int) for length in node.shape) or math.prod(node.shape) > MAX_VALUES:
        return False
    return shape is None or tuple(node.shape) == shape


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
    return ProgramError(
        "onnxruntime cannot run this program",
        where=where,
        found=reason.splitlines()[0][:300] if reason else type(error).__name__,
        expected=f"a program that onnxruntime {runtime_version()} runs",
        remedy="install a newer onnxruntime, or build the bundle again with fieldkit build",
    )
