"""Every rule of the compiler against torch's own autograd, over drawn shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.field.engine.session import open_session, run_session
from fieldkit.hq.compiler.capture import capture
from fieldkit.hq.compiler.differentiation import gradients
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import lower
from fieldkit.hq.compiler.randomness import replayed
from fieldkit.hq.compiler.rules import RULES

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
some = settings(max_examples=8, deadline=None, derandomize=True)
size = st.integers(1, 4)


class Probe(torch.nn.Module):
    """A loss that weighs every output of a function by a fixed number, so that no gradient cancels."""

    def __init__(self, function: Callable, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.tensors = torch.nn.ParameterList(torch.nn.Parameter(each) for each in tensors)

    def forward(self, start: torch.Tensor) -> torch.Tensor:
        y = self.function(*(each * 1.0 for each in self.tensors))
        weights = torch.cos(torch.arange(y.numel(), dtype=torch.float32)).reshape(y.shape) + 1.5
        return (y * weights).sum() + start.sum()


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def draw(shapes: Iterable[Sequence[int]], seed: int = 0) -> list[np.ndarray]:
    """Uniform randoms in [0, 1), float32, as the host draws them for a step."""
    generator = np.random.default_rng(seed)
    return [generator.random(tuple(shape), dtype=np.float32) for shape in shapes]


def check(function: Callable, inputs: list[torch.Tensor], tolerance: float = 1e-4) -> None:
    """Forward value and every gradient of ``function`` are torch's own.

    A function that is a module has its parameters checked as well, and the buffers that it changes; its randoms are
    drawn here, for both sides.
    """
    probe = Probe(function, inputs)
    start = torch.zeros(1)
    graph = Graph("probe")
    names = [name for name, _ in probe.named_parameters()]
    values = [graph.input(name, "float32", tuple(each.shape), trains=True) for name, each in probe.named_parameters()]
    buffers = {name: each for name, each in probe.named_buffers() if each.dtype == torch.float32}
    host = {"start": graph.input("start", "float32", (1,))}
    host |= {name: graph.input(name, "float32", tuple(each.shape)) for name, each in buffers.items()}
    lowered = lower(capture(probe, {"start": start}), graph, host | dict(zip(names, values, strict=True)))
    slopes = gradients(graph, lowered.tape, lowered.outputs[0], values)
    changed = {name: value for name, value in lowered.buffers.items() if name in buffers}
    for name, value in zip(("loss", *names, *changed), (lowered.outputs[0], *slopes, *changed.values()), strict=True):
        graph.output(f"out.{name}", value)
    session = open_session(graph.serialise(), "probe", threads=1)
    given = [*probe.named_parameters(), *buffers.items(), ("start", start)]
    feeds = {name: each.detach().numpy().copy() for name, each in given}
    wanted = {each.name: each.shape for each in session.get_inputs()}
    randoms = draw(shape for name, shape in wanted.items() if name.startswith("random."))
    feeds |= {f"random.{index}": each for index, each in enumerate(randoms)}
    found = run_session(session, {name: each for name, each in feeds.items() if name in wanted}, "probe")
    with replayed(randoms):
        loss = probe(start)
        expected = [loss, *torch.autograd.grad(loss, list(probe.parameters())), *(buffers[name] for name in changed)]
    for one, other in zip(found, expected, strict=True):
        other = other.detach().numpy()
        assert one.shape == other.shape
        scale = max(1.0, float(np.abs(other).max(initial=0)))
        np.testing.assert_allclose(one / scale, other / scale, rtol=tolerance, atol=tolerance)


def check_all(functions: Sequence[Callable], inputs: list[torch.Tensor]) -> None:
    """``check`` for several functions in one graph, and one by one where it fails, so that the traceback names one."""

    def together(*arguments: torch.Tensor) -> torch.Tensor:
        return torch.cat([function(*arguments).reshape(-1) for function in functions])

    try:
        check(together, inputs)
    except AssertionError:
        for function in functions:
            check(function, inputs)
        raise


@st.composite
def broadcasting(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast against each other."""
    full = draw(st.lists(size, min_size=1, max_size=4))
    first, second = ([1 if draw(st.booleans()) else n for n in full] for _ in range(2))
    return tuple(first), tuple(second[draw(st.integers(0, len(second) - 1)) :])


ARITHMETIC = (
    lambda a, b: a + b,
    lambda a, b: torch.add(a, b, alpha=0.5),
    lambda a, b: a - b,
    lambda a, b: torch.sub(a, b, alpha=3),
    lambda a, b: a * b,
    lambda a, b: a / (b.abs() + 1.0),
    lambda a, b: a * torch.div(a, b.abs() + 0.3, rounding_mode="floor"),
    lambda a, b: b * torch.div(a, b.abs() + 0.3, rounding_mode="trunc"),
    lambda a, b: a * (torch.arange(-4, 3) // 2).sum() + b * (b.detach() // 2.0),
    lambda a, b: torch.where(a > b, a, b),
    lambda a, b: torch.where((a >= b) & (b < 0.5), a, 2.0 * b),
    lambda a, b: torch.where((a <= 0.3) & (b.detach() > 0), 1.0, 0.0) * a * b,
)
FUNCTIONS = (
    torch.relu,
    torch.abs,
    torch.exp,
    torch.sin,
    torch.cos,
    torch.neg,
    lambda x: torch.log(x.abs() + 0.5),
    lambda x: torch.sqrt(x.abs() + 0.5),
    lambda x: x**3,
    lambda x: 2.0 - x,
    lambda x: 1.0 / (x + 10.0),
    lambda x: x.to(torch.float64).to(torch.float32) * x.clone(),
    lambda x: x * x.detach(),
    lambda x: torch.nn.functional.dropout(x, 0.0, training=True),
    lambda x: torch.nn.functional.relu(x * 1.0, inplace=True) + x,
)
MOVES = (
    lambda x: x.reshape(-1, 4),
    lambda x: x.flatten(1),
    lambda x: x.unsqueeze(1).squeeze(1),
    lambda x: x.permute(2, 0, 1),
    lambda x: x.transpose(0, 2),
    lambda x: x[:, 1],
    lambda x: x[1:, ::2],
    lambda x: x[:, -2:, 1],
    lambda x: x[:, None].expand(-1, 5, -1, -1),
    lambda x: torch.cat((x, x * 2.0, x[:1]), dim=0),
    lambda x: torch.stack((x, x * x), dim=3),
    lambda x: torch.nn.functional.pad(x, (1, 2, 0, 1)),
    lambda x: torch.nn.functional.pad(x, (-1, 0, 1, -1)),
)
REDUCTIONS = (
    torch.sum,
    torch.mean,
    lambda x: x.sum(dim=1),
    lambda x: x.sum(dim=(0, 2), keepdim=True),
    lambda x: x.mean(dim=(1, 2)),
    lambda x: x.mean(dim=-1, keepdim=True),
    lambda x: torch.softmax(x, dim=1),
    lambda x: torch.log_softmax(x, dim=-1),
)


@some
@given(shapes=broadcasting())
def test_arithmetic_with_broadcasting(shapes):
    check_all(ARITHMETIC, tensors(*shapes))


@some
@given(shape=st.lists(size, min_size=0, max_size=3))
def test_functions_of_one_number(shape):
    check_all(FUNCTIONS, tensors(tuple(shape)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.pow(x.abs() + 0.5, torch.arange(3)),
        lambda x: torch.addcmul(x, torch.arange(3), x * x),
        lambda x: torch.linalg.vector_norm(x, dim=1, dtype=torch.float64).float(),
        lambda x: (torch.exp(x) * torch.arange(3, dtype=torch.float64)).float() * x,
    ],
)
def test_operands_of_other_dtypes_are_promoted_and_their_gradients_come_back(function):
    check(function, tensors((2, 3)))


def test_an_operation_in_place_changes_what_later_calls_read():
    def function(x: torch.Tensor) -> torch.Tensor:
        y = x * 2.0
        torch.relu_(y)
        return y + y

    check(function, tensors((3, 4)))


def test_relu_of_zero_and_of_tiny_numbers_has_torchs_gradient():
    check(torch.relu, [torch.tensor([-1.0, 0.0, 1e-30, 1e-6, 3.0])])


@some
@given(batch=st.integers(2, 3), rows=st.integers(3, 5))
def test_moving_elements(batch, rows):
    check_all(MOVES, tensors((batch, rows, 4)))


def test_a_matrix_turns():
    check(lambda x: x.t() * 1.0, tensors((3, 2)))


@some
@given(shape=st.tuples(size, size, size))
def test_reductions(shape):
    check_all(REDUCTIONS, tensors(shape))


@few
@given(batch=size, inputs=size, outputs=size, bias=st.booleans())
def test_linear(batch, inputs, outputs, bias):
    shapes = [(batch, inputs), (outputs, inputs), (outputs,)][: 3 if bias else 2]
    check(torch.nn.functional.linear, tensors(*shapes))


@st.composite
def convolutions(draw: st.DrawFn) -> dict:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    smallest = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    height, width = (draw(st.integers(n, n + draw(st.sampled_from((0, 3, 12))))) for n in smallest)
    return {
        "x": (draw(size), draw(size), height, width),
        "kernel": kernel,
        "out": draw(size),
        "bias": draw(st.booleans()),
        "settings": {"stride": draw(st.tuples(size, size)), "padding": padding, "dilation": dilation},
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(case=convolutions())
def test_convolution(case):
    shapes = [case["x"], (case["out"], case["x"][1], *case["kernel"])] + [(case["out"],)] * case["bias"]
    check(lambda *inputs: torch.nn.functional.conv2d(*inputs, **case["settings"]), tensors(*shapes))


@pytest.mark.parametrize("side", [8, 13])
def test_convolution_of_small_and_of_larger_images(side):
    shapes = ((2, 3, side, side), (4, 3, 3, 3), (4,))
    check(lambda *inputs: torch.nn.functional.conv2d(*inputs, padding=1), tensors(*shapes))


@some
@given(batch=st.integers(2, 3), groups=st.integers(1, 3), per=st.integers(1, 3), image=st.tuples(size, size))
def test_group_normalisation(batch, groups, per, image):
    channels = groups * per
    x, weight, bias = tensors((batch, channels, *image), (channels,), (channels,))
    check(lambda *inputs: torch.nn.functional.group_norm(inputs[0], groups, *inputs[1:]), [x, weight, bias], 1e-3)
    check(lambda x: torch.nn.functional.group_norm(x, groups), [x], 1e-3)


def test_group_normalisation_of_values_far_from_zero():
    x = tensors((2, 4, 5, 5))[0] + 1000.0
    check(lambda x: torch.nn.functional.group_norm(x, 2), [x], 1e-3)


@some
@given(
    bands=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    bias=st.booleans(),
)
def test_first_layers_taken_together(bands, kernel, stride, padding, bias):
    """Convolution of an image that does not train, and instance normalisation: one rule for both."""
    out = 2 * bands * kernel**2
    image, weight, gamma, beta = tensors((2, bands, 13, 12), (out, bands, kernel, kernel), (out,), (out,))
    offset = tensors((out,), seed=1) * bias

    def function(weight: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.conv2d(image + 3.0, weight, *bias, stride=stride, padding=padding)
        return torch.nn.functional.group_norm(y, out, gamma, beta)

    check(function, [weight, gamma, beta, *offset], 1e-3)


@pytest.mark.parametrize("pool", [torch.nn.functional.avg_pool2d, torch.nn.functional.max_pool2d])
@some
@given(
    shape=st.tuples(size, size, st.integers(3, 9), st.integers(3, 9)),
    tile=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_pooling(pool, shape, tile):
    check(lambda x: pool(x, tile), tensors(shape))


def test_max_pooling_gives_equal_maxima_torchs_choice():
    x = torch.tensor([[[[1.0, 1.0, 0.0, 2.0], [1.0, 0.0, 2.0, 2.0]]]])
    check(lambda x: torch.nn.functional.max_pool2d(x, 2), [x])


def test_average_pooling_of_a_wide_image():
    check(lambda x: torch.nn.functional.avg_pool2d(x, 2), tensors((1, 1, 2, 70)))


def test_a_parameter_used_twice_gets_both_gradients():
    check(lambda a, b: torch.relu(a) * b + torch.relu(a) + a, tensors((2, 3), (2, 3)))


def test_every_rule_is_callable_and_named_for_an_aten_operator():
    for name, rule in RULES.items():
        assert callable(rule)
        space, operator, overload = name.split(".")
        assert space == "aten"
        assert hasattr(getattr(torch.ops.aten, operator), overload)
