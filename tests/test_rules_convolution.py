"""The rules of convolution against torch's own autograd, over drawn shapes."""

from __future__ import annotations

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
from fieldkit.hq.compiler.capture import capture
from fieldkit.hq.compiler.differentiation import gradients
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import lower
from fieldkit.hq.compiler.rules import correlation, depthwise, kernel_gradient
from fieldkit.hq.compiler.rules.window import Window, shifted

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
many = settings(max_examples=20, deadline=None, derandomize=True)
size = st.integers(1, 3)
pairs = st.tuples(size, size)


@st.composite
def windows(draw: st.DrawFn, axes: int = 2) -> dict:
    """Kernel, image and settings of a convolution that has at least one place."""
    numbers = st.tuples(*[size] * axes)
    kernel, dilation = draw(numbers), draw(numbers)
    padding = draw(st.tuples(*[st.integers(0, 2)] * axes))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    image = [max(1, r - 2 * p) + draw(st.sampled_from((0, 3, 12))) for r, p in zip(reach, padding, strict=True)]
    groups = draw(size)
    return {
        "x": (draw(size), groups * draw(size), *image),
        "weight": (groups * draw(size), *kernel),
        "settings": {"stride": draw(numbers), "padding": padding, "dilation": dilation, "groups": groups},
    }


def shapes_of(case: dict) -> list[tuple[int, ...]]:
    """Of image, weight and bias."""
    (out, *kernel), channels = case["weight"], case["x"][1]
    return [case["x"], (out, channels // case["settings"]["groups"], *kernel), (out,)]


@many
@given(case=windows(), bias=st.booleans())
def test_convolution(case, bias):
    inputs = tensors(*shapes_of(case))[: 2 + bias]
    check(lambda *inputs: functional.conv2d(*inputs, **case["settings"]), inputs)


@many
@given(case=windows(), multiplier=size)
def test_depthwise_convolution(case, multiplier):
    groups = case["x"][1]
    case["settings"]["groups"] = groups
    inputs = tensors(case["x"], (groups * multiplier, 1, *case["weight"][1:]), (groups * multiplier,))
    check(lambda *inputs: functional.conv2d(*inputs, **case["settings"]), inputs)


@few
@given(case=windows(axes=1))
def test_convolution_over_one_axis(case):
    check(lambda *inputs: functional.conv1d(*inputs, **case["settings"]), tensors(*shapes_of(case)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@few
@given(kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), dilation=pairs, groups=size)
def test_padding_by_name(kernel, dilation, groups):
    """An even reach makes "same" pad more behind than before; "valid" does not pad."""
    x, weight = tensors((2, groups, 10, 11), (2 * groups, 1, *kernel))

    def same(x, weight):
        return functional.conv2d(x, weight, padding="same", dilation=dilation, groups=groups)

    def valid(x, weight):
        return functional.conv2d(x, weight, padding="valid", stride=2, dilation=dilation, groups=groups)

    def over_one_axis(x, weight):
        return functional.conv1d(x[:, :, 0], weight[:, :, 0], padding="same", groups=groups)

    check_all([same, valid, over_one_axis], [x, weight])


@st.composite
def transposed_windows(draw: st.DrawFn, axes: int = 2) -> dict:
    """Kernel, image and settings of a transposed convolution that leaves at least one place."""
    numbers = st.tuples(*[size] * axes)
    kernel, dilation, stride = draw(numbers), draw(numbers), draw(numbers)
    more = tuple(draw(st.integers(0, max(d, s) - 1)) for d, s in zip(dilation, stride, strict=True))
    image = [draw(st.sampled_from((1, 2, 5))) for _ in range(axes)]
    full = [
        (n - 1) * s + d * (k - 1) + 1 + m for n, s, d, k, m in zip(image, stride, dilation, kernel, more, strict=True)
    ]
    padding = tuple(draw(st.integers(0, min(2, (n - 1) // 2))) for n in full)
    groups = draw(size)
    return {
        "shapes": [(draw(size), 2 * groups, *image), (2 * groups, (out := draw(size)), *kernel), (groups * out,)],
        "settings": {
            "stride": stride,
            "padding": padding,
            "output_padding": more,
            "groups": groups,
            "dilation": dilation,
        },
    }


@many
@given(case=transposed_windows(), bias=st.booleans())
def test_transposed_convolution(case, bias):
    inputs = tensors(*case["shapes"])[: 2 + bias]
    check(lambda *inputs: functional.conv_transpose2d(*inputs, **case["settings"]), inputs)


@few
@given(case=transposed_windows(axes=1))
def test_transposed_convolution_over_one_axis(case):
    check(lambda *inputs: functional.conv_transpose1d(*inputs, **case["settings"]), tensors(*case["shapes"]))


@few
@given(channels=size)
def test_depthwise_transposed_convolution(channels):
    inputs = tensors((2, channels, 4, 3), (channels, 1, 3, 3))
    check(
        lambda *inputs: functional.conv_transpose2d(*inputs, stride=2, padding=1, output_padding=1, groups=channels),
        inputs,
    )


def test_one_image_without_a_batch():
    x, weight = tensors((3, 6, 5), (4, 3, 3, 3))
    check_all(
        [
            lambda x, w: functional.conv2d(x, w, padding=1),
            lambda x, w: functional.conv_transpose2d(x, w.transpose(0, 1), stride=2),
            lambda x, w: functional.conv1d(x[0], w[:, 0, :1].expand(-1, 6, -1)),
        ],
        [x, weight],
    )


def test_the_general_form():
    def general(x, w, b, transposed):
        return torch.ops.aten.convolution.default(x, w, b, [2, 2], [1, 1], [1, 1], transposed, [0, 0], 1)

    check_all(
        [lambda x, w, b: general(x, w, b, False), lambda x, w, b: general(x, w, b, True)],
        tensors((2, 4, 6, 5), (4, 4, 3, 3), (4,)),
    )


def test_a_convolution_over_three_axes_is_refused():
    def function(x, weight):
        return torch.ops.aten.convolution.default(x, weight, None, [1] * 3, [0] * 3, [1] * 3, False, [0] * 3, 1)

    with pytest.raises(ProgramError, match="convolve over height and width only"):
        check(function, tensors((1, 1, 3, 3, 3), (1, 1, 2, 2, 2)))


@pytest.mark.parametrize("side", [4, 16])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3])
def test_small_and_larger_images(side, groups, kernel):
    """The choice between lowerings goes by the size of the image."""
    inputs = tensors((2, 4, side, side), (8, 4 // groups, kernel, kernel), (8,))
    check_all(
        [lambda *all, s=s: functional.conv2d(*all, stride=s, padding=kernel // 2, groups=groups) for s in (1, 2)],
        inputs,
    )


@pytest.mark.parametrize("groups", [1, 3])
def test_a_standardised_weight(groups):
    def function(x, weight):
        centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
        scaled = centred / ((centred * centred).mean(dim=(1, 2, 3), keepdim=True) + 1e-3).sqrt()
        return functional.conv2d(x, scaled, padding=1, groups=groups)

    check(function, tensors((2, 3, 5, 5), (6, 3 // groups, 3, 3)))


@st.composite
def any_window(draw: st.DrawFn) -> tuple[Window, tuple[int, int]]:
    """A window that pads or cuts at each side, and the size of an image that has a place for it."""
    numbers = st.tuples(size, size)
    kernel, dilation, stride = draw(st.tuples(*[st.integers(1, 5)] * 2)), draw(numbers), draw(numbers)
    before, after = (draw(st.tuples(*[st.integers(-2, 3)] * 2)) for _ in range(2))
    window = Window(kernel, stride, before, after, dilation, draw(st.integers(1, 2)))
    needed = [max(r + 1 - b - a, 1 - b, 1 - a, 1) for r, b, a in zip(window.reach, before, after, strict=True)]
    return window, tuple(n + draw(st.sampled_from((0, 1, 6, 17))) for n in needed)


def slow_kernel_gradient(dy: np.ndarray, x: np.ndarray, window: Window) -> np.ndarray:
    """[groups, out / groups, in / groups, kh, kw], one place of the kernel after the other."""
    sides = list(zip(window.before, window.after, strict=True))
    padded = np.pad(x, [(0, 0), (0, 0), *((max(b, 0), max(a, 0)) for b, a in sides)])
    (top, bottom), (left, right) = ((max(-b, 0), max(-a, 0)) for b, a in sides)
    padded = padded[:, :, top : padded.shape[2] - bottom, left : padded.shape[3] - right]
    found = np.zeros((window.groups, dy.shape[1] // window.groups, x.shape[1] // window.groups, *window.kernel))
    for row, column in np.ndindex(*window.kernel):
        starts = row * window.dilation[0], column * window.dilation[1]
        read = padded[:, :, starts[0] :: window.stride[0], starts[1] :: window.stride[1]]
        read = read[:, :, : dy.shape[2], : dy.shape[3]]
        for group, (signal, image) in enumerate(
            zip(np.split(dy, window.groups, 1), np.split(read, window.groups, 1), strict=True)
        ):
            found[group, :, :, row, column] = np.einsum("nohw,nchw->oc", signal, image)
    return found


@many
@given(drawn=any_window(), batch=size, channels=pairs)
def test_every_way_to_a_kernel_gradient(drawn, batch, channels):
    window, image = drawn
    groups, (inputs, outputs) = window.groups, channels
    shapes = {"x": (batch, groups * inputs, *image), "dy": (batch, groups * outputs, *window.output(*image))}
    feeds = {name: each.numpy() for name, each in zip(shapes, tensors(*shapes.values()), strict=True)}
    graph = Graph("gradients")
    x, dy = (graph.input(name, "float32", shape) for name, shape in shapes.items())
    weight = graph.input("weight", "float32", (groups * outputs, inputs, *window.kernel))
    ways = [
        kernel_gradient.from_phases(graph, dy, x, window),
        correlation.weight_gradient(graph, dy, x, weight, window),
    ]
    if window.stride == (1, 1):
        ways.append(kernel_gradient.from_shifts(graph, dy, x, window))
    if depthwise.is_depthwise(weight, window):
        ways.append(depthwise.weight_gradient(graph, dy, x, weight, window))
    for index, way in enumerate(ways):
        graph.output(f"way.{index}", way)
    session = open_session(graph.serialise(), "gradients", threads=1)
    expected = slow_kernel_gradient(feeds["dy"], feeds["x"], window)
    for found in run_session(session, feeds, "gradients"):
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


@few
@given(first=st.integers(-9, 9), count=st.integers(1, 9), rows=st.sampled_from((3, 20)), axis=st.sampled_from((0, 1)))
def test_neighbours_from_anywhere(first, count, rows, axis):
    """Rows of either length, and windows beside the image, over its edges and in its middle."""
    graph, x = Graph("shifted"), np.arange(1, 5 * rows + 1, dtype=np.float32).reshape(5, rows)
    made = shifted(graph, graph.input("x", "float32", x.shape), axis, first, count)
    graph.output("y", made)
    graph.output("folded", shifted(graph, graph.constant(x), axis, first, count))
    wide = np.pad(x, 30)
    expected = np.take(wide, range(30 + first, 30 + first + count), axis)
    expected = expected[:, 30:-30] if axis == 0 else expected[30:-30]
    found = run_session(open_session(graph.serialise(), "shifted", threads=1), {"x": x}, "shifted")
    for each in found:
        np.testing.assert_array_equal(each, expected)


class Layers(torch.nn.Module):
    """A convolution of each kind, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(2, 4, 3, padding="same"),
            torch.nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4),
            torch.nn.Conv2d(4, 8, 1),
            torch.nn.Conv2d(8, 8, 3, padding=1, groups=2),
            torch.nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1),
            torch.nn.ConvTranspose2d(4, 2, 3, groups=2),
            torch.nn.Flatten(2),
            torch.nn.Conv1d(2, 3, 3, padding=1),
            torch.nn.ConvTranspose1d(3, 2, 2),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def test_a_prediction_of_any_number_of_images():
    model, graph = Layers().eval(), Graph("predict")
    x = tensors((3, 2, 9, 9))[0]
    images = graph.input("images", "float32", ("N", 2, 9, 9))
    bindings = {name: graph.constant(each.detach().numpy()) for name, each in model.named_parameters()}
    lowered = lower(capture(model, {"images": x}, free_batch=True), graph, {"images": images, **bindings})
    graph.output("y", lowered.outputs[0])
    session = open_session(graph.serialise(), "predict", threads=1)
    for count in (1, 3):
        found = run_session(session, {"images": x[:count].numpy()}, "predict")[0]
        np.testing.assert_allclose(found, model(x[:count]).detach().numpy(), rtol=1e-4, atol=1e-5)


def operators(trained: list[str], first: bool) -> list[str]:
    """The operators of a loss and its gradients for the ``trained`` parameters of two convolutions."""
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 4, 3, groups=2), torch.nn.Conv2d(4, 3, 3))

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.model(images).sum()

    graph, loss = Graph("train"), Loss()
    shapes = {name: tuple(each.shape) for name, each in loss.named_parameters()}
    bindings = {name: graph.input(name, "float32", shape, trains=name in trained) for name, shape in shapes.items()}
    images = graph.input("images", "float32", (2, 2, 20, 20), trains=first)
    lowered = lower(capture(loss, {"images": torch.zeros(2, 2, 20, 20)}), graph, {"images": images, **bindings})
    targets = [bindings[name] for name in trained] + [images] * first
    for value, slope in zip(targets, gradients(graph, lowered.tape, lowered.outputs[0], targets), strict=True):
        graph.output(f"slope.{value.name}", slope)
    return [node.operator for node in graph.live_nodes()]


def test_a_frozen_weight_has_no_gradient():
    both = operators(["model.1.weight", "model.0.weight"], first=False)
    last = operators(["model.1.weight"], first=False)
    assert both.count("MatMul") > last.count("MatMul") > 0
    assert both.count("Conv") > last.count("Conv")
    assert not {"MatMul", "ReduceSum"} & set(operators([], first=True))


def test_a_frozen_trunk_has_no_way_back():
    # One convolution for the trunk; what follows are products of the last layer alone.
    assert operators(["model.1.bias"], first=False).count("Conv") == 0
    assert operators(["model.1.weight"], first=False).count("Conv") == 1
