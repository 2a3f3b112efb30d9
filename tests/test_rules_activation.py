"""Rules of activations and of other functions of single elements against torch's own autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiler_rules import check, check_all, tensors
from torch.nn import functional

from fieldkit.errors import ProgramError
from fieldkit.field.engine.session import open_session, run_session
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.rules.masks import above, below, between

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
shapes = st.lists(st.sampled_from((1, 2, 3, 5)), min_size=2, max_size=4).map(tuple)

ACTIVATIONS = (
    functional.relu6,
    functional.hardtanh,
    lambda x: functional.hardtanh(x, -0.25, 0.75),
    functional.leaky_relu,
    lambda x: functional.leaky_relu(x, 1.5),
    functional.elu,
    lambda x: functional.elu(x, 0.3),
    functional.selu,
    functional.celu,
    lambda x: functional.celu(x, 0.7),
    functional.gelu,
    lambda x: functional.gelu(x, approximate="tanh"),
    functional.silu,
    functional.mish,
    functional.hardswish,
    functional.hardsigmoid,
    torch.sigmoid,
    torch.tanh,
    functional.softplus,
    lambda x: functional.softplus(x, beta=3.0),
    functional.logsigmoid,
    functional.softsign,
    functional.softshrink,
    lambda x: functional.softshrink(x, 0.25) + functional.hardshrink(x, 1.0),
    lambda x: functional.threshold(x, 0.75, -2.0),
    functional.tanhshrink,
)
FUNCTIONS = (
    torch.square,
    torch.erf,
    torch.expm1,
    lambda x: x * torch.floor(x * 3.0),
    lambda x: x * torch.ceil(x * 3.0),
    lambda x: x * torch.round(x * 3.0),
    lambda x: x * torch.sign(x * 3.0),
    lambda x: torch.rsqrt(x.abs() + 0.5),
    lambda x: torch.reciprocal(x + 10.0),
    lambda x: torch.log1p(x.abs()),
    lambda x: x**2 + x**1 + x**0,
    lambda x: (x.abs() + 0.5) ** 0.5 + (x.abs() + 0.5) ** -0.5 + (x + 10.0) ** -1,
    lambda x: (x.abs() + 0.5) ** 2.5,
    lambda x: 2.0**x,
    lambda x: x.clamp(-0.5, 0.5),
    lambda x: x.clamp(min=-0.5),
    lambda x: x.clamp(max=0.5),
    lambda x: x.clamp_min(0.0) + x.clamp_max(1.0),
    lambda x: torch.clamp(x, max=torch.tensor(0.5)),
    lambda x: x.masked_fill(x > 0.3, -2.0),
    lambda x: x.masked_fill(x > 0.3, torch.tensor(3.0)),
    lambda x: torch.where(~(x > 0) | (x == 1.0), x, 0.0),
    lambda x: torch.where(torch.logical_not(x != 0) | torch.logical_or(x > 1, x < 0), 2.0 * x, x),
    lambda x: x.type_as(x) + x.to("cpu") + x.float(),
)
PAIRS = (
    torch.maximum,
    torch.minimum,
    torch.max,
    torch.min,
    torch.rsub,
    lambda a, b: torch.div(a, b.abs() + 0.5, rounding_mode="floor") * a + torch.div(a, 2.0, rounding_mode=None),
    lambda a, b: torch.div(a, b.abs() + 0.1, rounding_mode="trunc") * a + (a.detach() * 5.0) // 2.0 * b,
    lambda a, b: torch.addcmul(a, b, b, value=0.5),
    lambda a, b: (a.abs() + 0.1) ** b,
    lambda a, b: torch.where(a.eq(b) | a.ne(b), a, b),
)


@few
@given(shape=shapes)
def test_activations(shape):
    # Four times the spread, so that what is cut off is reached.
    check_all(ACTIVATIONS, [tensors(shape)[0] * 4.0])


@few
@given(shape=shapes)
def test_functions(shape):
    check_all(FUNCTIONS, tensors(shape))


@few
@given(shape=shapes)
def test_pairs(shape):
    check_all(PAIRS, tensors(shape, (1, *shape[1:])))


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_kinks_and_ends(function):
    ends = [-0.25, 0.0, 0.75, 1.0, 3.0, 6.0, 1e-30, 2.99999, 3.00001, 5.999999, 20.0, 45.0, 90.0]
    check(function, [torch.tensor([*ends, *(-each for each in ends)])])


def test_cutting_passes_the_gradient_at_the_ends():
    check(lambda x: x.clamp(-0.3, 0.7) + x.clamp(min=0.0), [torch.tensor([-0.3, -0.30001, 0.0, -1e-30, 0.7, 0.70001])])
    check(lambda x: torch.clamp(x, torch.tensor(-0.3), torch.tensor(0.7)), [torch.tensor([-0.3, 0.0, 0.7, 0.9])])


def test_equal_numbers_share_the_gradient_of_their_maximum():
    a, b = torch.tensor([1.0, 2.0, 1e-30, 0.0]), torch.tensor([1.0, 3.0, 0.0, 0.0])
    check_all((torch.maximum, torch.minimum), [a, b])


@few
@given(shape=shapes, single=st.booleans())
def test_prelu(shape, single):
    check(functional.prelu, tensors(shape, (1 if single else shape[1],)))


@few
@given(shape=shapes, axis=st.integers(0, 1))
def test_gated_halves(shape, axis):
    doubled = tuple(2 * n if index == axis else n for index, n in enumerate(shape))
    check(lambda x: functional.glu(x, axis), tensors(doubled))


def test_generalised_mean_pooling():
    """As retrieval networks do it: the exponent trains."""
    check(
        lambda x, p: x.clamp(min=1e-6).pow(p).mean((2, 3)).pow(1.0 / p), [tensors((2, 3, 4, 4))[0], torch.tensor([3.0])]
    )


def test_a_power_of_zero_passes_nothing_to_its_exponent():
    check(lambda p: torch.tensor([0.0, 1.0, 2.0]) ** p, [torch.tensor([2.0, 3.0, 0.5])])


def test_activations_in_place():
    def function(x: torch.Tensor) -> torch.Tensor:
        y = functional.silu(x * 1.0, inplace=True)
        y = functional.hardswish(y * 3.0, inplace=True)
        return functional.leaky_relu(y.clamp_(-1.0, 2.0), 0.2, inplace=True) * functional.relu6(x * 5.0, inplace=True)

    check(function, tensors((3, 7)))


def test_forms_without_a_rule_are_refused():
    for function in (
        lambda x: functional.softplus(x, threshold=2),
        lambda x: (-2.0) ** x,
        lambda x: torch.clamp(x, min=x * 0.5),
        lambda x: torch.where(torch.logical_not(x.to(torch.int64)), x, 0.0),
    ):
        with pytest.raises(ProgramError, match="not compiled in this form"):
            check(function, tensors((3,)))


@pytest.mark.parametrize("limit", [0.0, 1.0, -3.0, 0.1, 6.0, 1e-20, -1e20, 3e38])
def test_masks_tell_neighbouring_floats_apart(limit):
    number = np.float32(limit)
    beside = [np.nextafter(number, np.float32(way)) for way in (-math.inf, math.inf)]
    if limit == 0:
        beside = [np.float32(-1e-36), np.float32(1e-36)]
    x = np.array([number, *beside, 0.0, 1.0, -1.0, 1e38, -1e38, 1e-30, -1e-30], "float32")
    graph = Graph("masks")
    value = graph.input("x", "float32", x.shape)
    expected = []
    for equal in (False, True):
        graph.output(f"above{equal}", above(graph, value, limit, equal=equal))
        graph.output(f"below{equal}", below(graph, value, limit, equal=equal))
        expected += [x >= number, x <= number] if equal else [x > number, x < number]
    graph.output("all", graph.op("Mul", between(graph, value, -math.inf, math.inf), value))
    found = run_session(open_session(graph.serialise(), "masks", threads=1), {"x": x}, "masks")
    for one, other in zip(found, [*expected, x], strict=True):
        np.testing.assert_array_equal(one, other.astype("float32"))
