"""The rules of normalisation against torch's autograd: batch, group, instance, layer and RMS normalisation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiler_rules import check, check_all, tensors
from torch import nn

from fieldkit.errors import ProgramError
from fieldkit.field.engine.session import open_session, run_session
from fieldkit.hq.compiler.capture import capture
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import lower
from fieldkit.hq.compiler.nodes import Value

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
size = st.integers(1, 4)
# After batch and channels: none, one or two axes, of few pixels and of more, which are summed in another order.
places = st.sampled_from([(), (1,), (5,), (1, 1), (3, 2), (7, 6)])


def worn(module: nn.Module) -> nn.Module:
    """``module`` with parameters and statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(3)
    for name, each in [*module.named_parameters(), *module.named_buffers()]:
        if each.is_floating_point():
            drawn = torch.rand(each.shape, generator=generator)
            each.data.copy_(drawn + 0.5 if "var" in name else drawn - 0.3)
    return module


class Wrapped(nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def lowered(function: Callable, shape: tuple, *, trains: tuple[str, ...] = (), free_batch: bool = False) -> tuple:
    """A function of ``x`` in a graph; of its parameters those named in ``trains`` train."""
    graph = Graph("probe")
    module = Wrapped(function).train(not free_batch)
    given = [*module.named_parameters(), *module.named_buffers()]
    known = {name: graph.input(name, "float32", tuple(each.shape), trains=name in trains) for name, each in given}
    known["x"] = graph.input("x", "float32", ("N", *shape[1:]) if free_batch else shape, trains="x" in trains)
    return graph, lower(capture(module, {"x": torch.zeros(shape)}, free_batch=free_batch), graph, known)


def check_prediction(function: Callable, shape: tuple[int, ...], tolerance: float = 1e-5) -> None:
    """What ``predict`` makes of a batch of another size than the captured one is what torch makes of it."""
    graph, program = lowered(function, shape, free_batch=True)
    graph.output("y", program.outputs[0])
    assert not program.tape
    (x,) = tensors((shape[0] + 1, *shape[1:]), seed=5)
    module = Wrapped(function).eval()
    feeds = {"x": x.numpy()} | {name: each.detach().numpy() for name, each in module.state_dict().items()}
    session = open_session(graph.serialise(), "probe", threads=1)
    wanted = {each.name for each in session.get_inputs()}
    found = run_session(session, {name: each for name, each in feeds.items() if name in wanted}, "probe")
    np.testing.assert_allclose(found[0], module(x).detach().numpy(), rtol=1e-4, atol=tolerance)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(batch=st.integers(2, 4), channels=size, place=places)
def test_batch_norm_modules(batch, channels, place):
    shape = (batch, channels, *place)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    modules = [kind(channels), kind(channels, affine=False, momentum=1.0, eps=0.1)]
    module = worn(nn.Sequential(*modules, kind(channels, track_running_stats=False)))
    check(module.train(), tensors(shape), 2e-4)
    check(module.eval(), tensors(shape))
    check_prediction(module, (2, *shape[1:]))


@few
@given(batch=st.integers(2, 4), channels=size, place=places, weight=st.booleans(), bias=st.booleans())
def test_batch_norm_functions(batch, channels, place, weight, bias):
    x, w, b = tensors((batch, channels, *place), (channels,), (channels,))
    mean, variance = tensors((channels,), (channels,), seed=2)
    variance = variance.abs() + 0.1
    names = ["weight"] * weight + ["bias"] * bias

    def of_batch(x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, training=True, **dict(zip(names, affine, strict=True)))

    def frozen(x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, mean, variance, training=False, **dict(zip(names, affine, strict=True)))

    def native(x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
        w, b = (dict(zip(names, affine, strict=True)).get(name) for name in ("weight", "bias"))
        y, saved, rstd = torch.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)
        return (
            y * rstd.detach().sum()
            + saved.detach().sum()
            + torch.native_batch_norm(x, w, b, mean, variance, False, 0.1, 1e-5)[0]
        )

    check_all([of_batch, frozen, native], [x, *[w] * weight, *[b] * bias])


def test_batch_norm_beside_one_that_is_frozen():
    check(nn.Sequential(worn(nn.BatchNorm2d(3)), worn(Frozen())).train(), tensors((3, 3, 4, 4)))


def test_batch_norm_of_values_far_from_zero():
    check(worn(nn.BatchNorm2d(4)), [tensors((4, 4, 9, 9))[0] + 100.0], 2e-4)


def test_batch_norm_leaves_the_statistics_that_it_was_given_alone():
    """onnxruntime's kernel writes over two of its inputs, which must not be anyone's."""
    module = worn(nn.BatchNorm2d(3))
    graph, program = lowered(module, (4, 3, 5, 5), trains=("function.weight",))
    for name, value in program.buffers.items():
        if value.dtype == "float32":
            graph.output(f"new.{name}", value)
    session = open_session(graph.serialise(), "probe", threads=1)
    (x,) = tensors((4, 3, 5, 5))
    feeds = {"x": x.numpy()} | {name: each.numpy() for name, each in Wrapped(module).state_dict().items()}
    feeds = {each.name: feeds[each.name].copy() for each in session.get_inputs()}
    before = {name: each.copy() for name, each in feeds.items()}
    first, second = (run_session(session, feeds, "probe") for _ in range(2))
    np.testing.assert_array_equal(first, second)
    for name, each in before.items():
        np.testing.assert_array_equal(feeds[name], each)


def test_batch_norm_in_a_prediction_is_one_node_that_onnxruntime_can_fold():
    graph, program = lowered(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)), (2, 2, 4, 4), free_batch=True)
    graph.output("y", program.outputs[0])
    assert [(each.operator, len(each.outputs)) for each in graph.live_nodes()] == [
        ("Conv", 1),
        ("BatchNormalization", 1),
    ]


class Functional(nn.Module):
    """A normalisation that changes running statistics by a plain function."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("variance", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.mean, self.variance)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (Functional(lambda x, m, v: F.batch_norm(x, m, v, training=True)), (2, 3, 4), "that a function updates"),
        (nn.InstanceNorm1d(3, track_running_stats=True), (2, 3, 4), "track_running_stats=False"),
    ],
)
def test_statistics_that_would_be_lost_are_refused(module, shape, message):
    with pytest.raises(ProgramError, match=message):
        lowered(module, shape, trains=("x",))


@few
@given(batch=st.integers(2, 4), groups=st.integers(1, 5), per=st.integers(1, 3), place=places, affine=st.booleans())
def test_group_norm(batch, groups, per, place, affine):
    channels = groups * per
    given = tensors((batch, channels, *place), (channels,), (channels,))[: 3 if affine else 1]
    check(lambda x, *affine: F.group_norm(x, groups, *affine, eps=1e-2), given)
    check_prediction(worn(nn.GroupNorm(groups, channels, affine=affine)), (2, channels, *place))


@few
@given(batch=size, channels=size, place=st.sampled_from([(5,), (3, 2), (7, 6)]), affine=st.booleans())
def test_instance_norm(batch, channels, place, affine):
    kind = nn.InstanceNorm1d if len(place) == 1 else nn.InstanceNorm2d
    module = worn(kind(channels, affine=affine))
    check(module, tensors((batch, channels, *place)))
    check_prediction(module, (2, channels, *place))


def test_instance_norm_by_running_statistics():
    module = worn(nn.InstanceNorm2d(3, affine=True, track_running_stats=True))
    check(module.eval(), tensors((2, 3, 4, 5)))
    check_prediction(module, (2, 3, 4, 5))


@few
@given(
    lead=st.lists(size, min_size=1, max_size=3),
    last=st.lists(st.integers(2, 5), min_size=1, max_size=2),
    weight=st.booleans(),
    bias=st.booleans(),
)
def test_layer_norm(lead, last, weight, bias):
    def native(x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
        w, b = affine[0] if weight else None, affine[-1] if bias else None
        y, mean, rstd = torch.native_layer_norm(x, last, w, b, 1e-2)
        return y * rstd.detach() + mean.detach()

    def layer(x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, last, affine[0] if weight else None, affine[-1] if bias else None, eps=1e-2)

    x, w, b = tensors((*lead, *last), tuple(last), tuple(last))
    check_all([layer, native], [x, *[w] * weight, *[b] * bias])
    check_prediction(worn(nn.LayerNorm(last, elementwise_affine=weight)), (2, *lead[1:], *last))


@few
@given(lead=st.lists(size, min_size=1, max_size=3), last=st.lists(st.integers(1, 5), min_size=1, max_size=2))
def test_rms_norm(lead, last):
    def fused(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        y, factor = torch.ops.aten._fused_rms_norm(x, last, weight, 1e-2)
        return y * factor.detach()

    functions = [
        lambda x, weight: F.rms_norm(x, last, weight),
        lambda x, weight: F.rms_norm(x, last, eps=0.1) * weight.sum(),
        fused,
    ]
    check_all(functions, tensors((*lead, *last), tuple(last)))
    check_prediction(worn(nn.RMSNorm(last)), (2, *lead[1:], *last))


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(40), nn.GroupNorm(1, 5), nn.GroupNorm(5, 5), nn.InstanceNorm2d(5)], ids=str
)
def test_values_far_from_zero(norm):
    x = tensors((3, 5, 6, 40))[0] + 100.0
    check(worn(norm), [x], 2e-4)
    check_prediction(lambda x: norm(x + 100.0), (2, 5, 6, 40), 1e-4)


class Frozen(nn.Module):
    """A batch normalisation that stays frozen while the rest trains."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


class Standardised(nn.Conv2d):
    """A convolution of standardised weights as timm's ``ScaledStdConv2d`` writes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape(self.weight.shape), self.bias)


class StandardisedByDeviation(nn.Conv2d):
    """A convolution of weights less their mean, over their standard deviation, as in Big Transfer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return F.conv2d(x, (self.weight - mean) / (deviation + 1e-5), self.bias)


@pytest.mark.parametrize("kind", [Standardised, StandardisedByDeviation])
def test_weight_standardisation(kind):
    module = kind(2, 4, (3, 2))
    check(module, tensors((2, 2, 4, 5)))
    check_prediction(module, (2, 2, 4, 5))


SPREADS = (
    lambda x: x.var(),
    lambda x: x.std(unbiased=False),
    lambda x: x.var(dim=1),
    lambda x: x.std(dim=(0, -1), keepdim=True),
    lambda x: x.var(dim=(1, 2), correction=0),
    lambda x: torch.stack(torch.var_mean(x, dim=2, unbiased=False)),
    lambda x: torch.stack(torch.std_mean(x)),
    lambda x: torch.var_mean(x, dim=(0, 1), keepdim=True)[1] + 1.0,
)


@few
@given(shape=st.tuples(*[st.integers(2, 4)] * 3))
def test_variance_and_deviation(shape):
    check_all(SPREADS, tensors(shape))


def test_the_deviation_of_equal_values_has_no_gradient():
    check(lambda x: x.std(dim=1), [torch.tensor([[2.0, 2.0, 2.0], [1.0, 2.0, 4.0]])])


def test_the_variance_of_one_value_is_refused():
    with pytest.raises(ProgramError, match="found 1 values"):
        lowered(lambda x: x.var(dim=1), (3, 1), trains=("x",))


@pytest.mark.parametrize("kind", ["batch", "frozen", "group", "layer"])
def test_what_does_not_train_has_no_gradient(kind):
    """The offset's gradient is made of sums alone; nothing is written for an input and a scale that do not train."""
    kinds = {"group": nn.GroupNorm(3, 3), "layer": nn.LayerNorm(4)}
    graph, program = lowered(kinds.get(kind, nn.BatchNorm2d(3)), (2, 3, 5, 4), trains=("function.bias",))
    if kind == "frozen":
        graph, program = lowered(Frozen(), (2, 3, 5, 4), trains=("function.norm.bias",))
    (entry,) = program.tape
    (bias,) = (each for each in entry.arguments if isinstance(each, Value) and each.trains)
    (y,) = (each for each in entry.outputs if each.trains)
    dy = graph.input("dy", "float32", y.shape)
    known = dict(zip(map(id, entry.arguments), entry.pullback(dy), strict=False))
    graph.output("dbias", known[id(bias)])
    assert {each.operator for each in graph.live_nodes()} <= {"ReduceSum", "MatMul", "Reshape"}
