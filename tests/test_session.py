"""Programs are checked before they run, and a bound step does what the program says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import handmade
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldkit.errors import ProgramError, ResourceError, UsageError
from fieldkit.field.engine import session as session_module
from fieldkit.field.engine.session import Stepper, open_session, run_session
from fieldkit.field.programs import extents, protobuf
from fieldkit.field.programs.program import ALLOWED_OPERATORS, check_program, read_metadata
from fieldkit.field.programs.protobuf import encode_bytes, encode_number, encode_varint

ONE = handmade.value_info("x", (1,))
X, Y = handmade.value_info("x", ("N",)), handmade.value_info("y", ("N",))


def program(*nodes: bytes, opset: int = 20, ir: int = 10, **constants: np.ndarray) -> bytes:
    return handmade.model(nodes or (handmade.node("Neg", ["x"], "y"),), [X], [Y], constants, opset, ir)


GRAPH_ATTRIBUTE = handmade.node("Neg", ["x"], "y") + encode_bytes(5, encode_bytes(1, b"then"), encode_bytes(6, b""))
GRAPHS_ATTRIBUTE = handmade.node("Neg", ["x"], "y") + encode_bytes(5, encode_bytes(11, b""))
# Field 1 of a graph is a node; Google's parser, which keeps 32 bits of a key, sees field 1 here too.
RANDOM = handmade.node("RandomNormal", [], "y")
HIDDEN = encode_varint(1 << 32 | 1 << 3 | 2) + encode_varint(len(RANDOM)) + RANDOM
OUTSIDE = encode_bytes(13, encode_bytes(1, b"location"), encode_bytes(2, b"/etc/passwd"))
HOSTILE = {
    "operator": (program(handmade.node("Loop", ["x"], "y")), "operator"),
    "no operator": (program(encode_bytes(1, b"x")), "operator"),
    "foreign node": (program(handmade.node("Neg", ["x"], "y") + encode_bytes(7, b"com.microsoft")), "domain"),
    "foreign opset": (program() + encode_bytes(8, encode_bytes(1, b"com.microsoft"), encode_number(2, 1)), "domain"),
    "new opset": (program(opset=21), "opset"),
    "new IR": (program(ir=11), "IR version"),
    "function": (program() + encode_bytes(25, encode_bytes(1, b"f")), "functions"),
    "training": (program() + encode_bytes(20, b""), "training"),
    "graph": (program(GRAPH_ATTRIBUTE), "nested graphs"),
    "graphs": (program(GRAPHS_ATTRIBUTE), "nested graphs"),
    "outside": (program() + encode_bytes(7, encode_bytes(5, OUTSIDE)), "other files"),
    "outside by place": (program() + encode_bytes(7, encode_bytes(5, encode_number(14, 1))), "other files"),
    "outside in attribute": (
        program(handmade.node("Constant", [], "y") + encode_bytes(5, encode_bytes(5, OUTSIDE))),
        "other files",
    ),
    "sparse": (program() + encode_bytes(7, encode_bytes(15, b"")), "sparse"),
    "second piece": (program() + encode_bytes(7, encode_bytes(1, handmade.node("If", ["x"], "z"))), "operator"),
    "hidden by a long key": (program() + encode_bytes(7, HIDDEN), "no ONNX model"),
    "empty": (b"", "no ONNX model"),
    "text": (b"hello, world, this is no model", "field of a model"),
    "cut": (program()[:-3], "no ONNX model"),
}


def test_a_program_is_never_taken_for_onnxruntimes_own_format() -> None:
    # To the check these bytes are a sound program whose producer is "ORTM"; that format has its mark at offset 4.
    content = program()[:2] + encode_bytes(2, b"ORTM") + program()[2:]
    assert content[4:8] == b"ORTM"
    session = open_session(content, "the program")
    assert run_session(session, {"x": np.ones(2, np.float32)}, "the program")[0].tolist() == [-1, -1]


@pytest.mark.parametrize(("content", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_program_that_breaks_the_contract_is_refused_before_it_runs(content: bytes, says: str) -> None:
    with pytest.raises(ProgramError, match=says) as caught:
        open_session(content, "the program")
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith("the program")
    assert caught.value.remedy


def test_the_message_names_the_node() -> None:
    with pytest.raises(ProgramError, match=r"p, node 'y'.*found Loop"):
        check_program(HOSTILE["operator"][0], "p")


def test_a_sound_program_runs() -> None:
    session = open_session(program(), "negate", threads=1)
    assert run_session(session, {"x": np.array([1, -2], np.float32)}, "negate")[0].tolist() == [-1, 2]


@pytest.mark.parametrize(
    "content",
    [program(handmade.node("Neg", ["x"], "z")), program(handmade.node("Sqrt", ["whole"], "y"), whole=np.array([4]))],
    ids=["missing output", "wrong type"],
)
def test_what_onnxruntime_refuses_is_a_program_error(content: bytes) -> None:
    with pytest.raises(ProgramError, match="onnxruntime cannot run"):
        open_session(content, "broken")


def test_a_failure_while_running_is_a_program_error() -> None:
    many = np.ones(extents.FREE, np.float32)
    session = open_session(program(handmade.node("Add", ["x", "many"], "y"), many=many), "add")
    with pytest.raises(ProgramError, match="add: onnxruntime cannot run"):
        run_session(session, {"x": np.ones(2, np.float32)}, "add")


@pytest.mark.parametrize("threads", [0, 100_000_000])
def test_threads_out_of_range_are_a_usage_error(threads: int) -> None:
    with pytest.raises(UsageError, match="threads"):
        open_session(program(), "p", threads=threads)


def test_control_flow_and_randomness_are_not_on_the_allow_list() -> None:
    assert not ALLOWED_OPERATORS & {"If", "Loop", "Scan", "RandomNormal", "RandomUniform", "Dropout", "Bernoulli"}


@given(st.binary(max_size=300))
def test_any_bytes_are_checked_or_refused(content: bytes) -> None:
    try:
        check_program(content, "bytes")
        read_metadata(content, "bytes")
    except ProgramError:
        return


@given(st.data())
def test_a_changed_byte_never_escapes_the_check(data: st.DataObject) -> None:
    content = bytearray(program())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    try:
        open_session(bytes(content), "changed", threads=1)
    except ProgramError:
        return


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=200)))))
def test_what_is_encoded_is_read_back(content: list[tuple[int, int | bytes]]) -> None:
    encoded = b"".join(
        encode_number(number, value) if isinstance(value, int) else encode_bytes(number, value)
        for number, value in content
    )
    read = [(number, value if isinstance(value, int) else bytes(value)) for number, value in protobuf.fields(encoded)]
    assert read == content


def test_a_step_reads_one_set_of_buffers_and_writes_the_other() -> None:
    recipe = handmade.recipe()
    stepper = Stepper(recipe, "full", threads=1)
    stepper.load({name: values + 0.5 for name, values in stepper.tensors().items()})
    stepper.feeds["weights"][...] = 1.0
    stepper.feeds["class_mask"][...] = 1.0
    stepper.feeds["targets"][...] = 1 / 3
    before = stepper.tensors()
    assert stepper.step() == pytest.approx(np.log(3), rel=1e-6)
    # Rate 0 keeps the parameters; the momentum decays.
    after = stepper.tensors()
    assert np.array_equal(before["param.weight"], after["param.weight"])
    assert np.allclose(after["state.momentum.bias"], 0.9 * before["state.momentum.bias"])
    stepper.step()
    assert np.allclose(stepper.tensors()["state.momentum.bias"], 0.81 * before["state.momentum.bias"])


def test_class_mask_switches_a_class_off() -> None:
    stepper = Stepper(handmade.recipe(), "full", threads=1)
    stepper.feeds["weights"][...] = 1.0
    stepper.feeds["class_mask"][...] = (1, 1, 0)
    stepper.feeds["targets"][...] = (0.5, 0.5, 0)
    assert stepper.step() == pytest.approx(np.log(2), rel=1e-6)


def test_an_unknown_scope_lists_the_known() -> None:
    with pytest.raises(UsageError, match="found tail; expected full"):
        Stepper(handmade.recipe(), "tail")


def test_a_train_program_without_its_outputs_is_refused() -> None:
    recipe = handmade.recipe()
    swapped = replace(recipe, programs={"train/full": program()})
    with pytest.raises(ProgramError, match=r"lacks input state\.momentum\.weight.*; it has input x, output y"):
        Stepper(swapped, "full")


@pytest.mark.parametrize(
    ("name", "shape"), [("lr", (1,)), ("weights", (1,)), ("class_mask", (1,)), ("images", (8, 16)), ("targets", (1, 3))]
)
def test_a_train_program_whose_inputs_have_other_shapes_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, shape: tuple[int, ...]
) -> None:
    value_info = handmade.value_info
    monkeypatch.setattr(
        handmade, "value_info", lambda given, usual, *rest: value_info(given, shape if given == name else usual, *rest)
    )
    with pytest.raises(ProgramError, match=f"lacks {name} "):
        Stepper(handmade.recipe(), "full")


def test_a_train_program_with_a_tensor_beyond_all_memory_is_refused() -> None:
    huge = handmade.train_program((1, 4, 4), 3, 1 << 40, 0.0, 1.0, False)
    with pytest.raises(ProgramError, match="size of tensor 'images'"):
        Stepper(replace(handmade.recipe(), programs={"train/full": huge}), "full")


@pytest.mark.hq
def test_handmade_programs_pass_the_onnx_checker() -> None:
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(handmade.recipe(aug=True).programs["train/full"], full_check=True)


def test_memory_that_is_not_there_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extents, "MAX_VALUES", 1 << 60)
    monkeypatch.setattr(extents, "MAX_TOTAL", 1 << 60)
    far = np.array([1 << 44], np.int64)
    session = open_session(
        handmade.model([handmade.node("Expand", ["x", "far"], "y")], [ONE], [Y], {"far": far}), "expand", 1
    )
    with pytest.raises(ResourceError, match="expand: not enough memory"):
        run_session(session, {"x": np.ones(1, np.float32)}, "expand")


def test_a_program_that_opens_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "OPENING_SECONDS", 0.01)
    names = ["x", *(f"t{index}" for index in range(4000)), "y"]
    chain = [handmade.node("Neg", [before], after) for before, after in pairwise(names)]
    with pytest.raises(ResourceError, match="chain: opening this program took too long"):
        open_session(program(*chain), "chain", threads=1)
