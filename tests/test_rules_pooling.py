"""The rules of pooling against torch's autograd, and in a program with a free batch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiler_rules import check, check_all, tensors
from test_rules_normalisation import check_prediction

from fieldkit.errors import ProgramError

pytestmark = pytest.mark.hq

several = settings(max_examples=15, deadline=None, derandomize=True)
size = st.integers(1, 4)
one_or_two = st.tuples(st.integers(1, 2), st.integers(1, 2))


@st.composite
def windows(draw: st.DrawFn, dilated: bool = False) -> dict:
    """An image's shape, and how a kernel moves over it."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(one_or_two) if dilated else (1, 1)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    smallest = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    height, width = (draw(st.integers(n, n + 6)) for n in smallest)
    moves = {"kernel_size": kernel, "stride": draw(st.tuples(size, size)), "padding": padding}
    moves |= {"ceil_mode": draw(st.booleans())}
    return {"shape": (draw(size), draw(size), height, width), "moves": moves, "dilation": dilation}


@several
@given(case=windows(dilated=True), levels=st.sampled_from([2, 50]))
def test_max_pooling(case, levels):
    # Few levels make many equal maxima, of which torch takes the first.
    (x,) = tensors(case["shape"])
    x = (x * levels).round() / levels
    check(lambda x: F.max_pool2d(x, **case["moves"], dilation=case["dilation"]), [x])


def test_the_stem_of_a_resnet():
    check(lambda x: F.max_pool2d(torch.relu(x), 3, 2, 1), tensors((2, 3, 9, 12)))


@several
@given(case=windows(), counted=st.booleans(), divisor=st.sampled_from([None, None, 3]))
def test_average_pooling(case, counted, divisor):
    settings = {"count_include_pad": counted, "divisor_override": divisor}
    check(lambda x: F.avg_pool2d(x, **case["moves"], **settings), tensors(case["shape"]))


def test_windows_that_go_beyond_the_image():
    # Dilation takes the padding further than the kernel is wide; ceil_mode lets the last window leave the image.
    check(lambda x: F.max_pool2d(x, 2, 3, 1, dilation=(1, 3), ceil_mode=True), tensors((1, 2, 6, 7)))
    check(lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), tensors((1, 2, 6, 8)))
    check(lambda x: F.avg_pool2d(x, 2, ceil_mode=True), tensors((1, 2, 5, 5)))


def test_a_window_in_the_padding_alone_is_refused():
    with pytest.raises(ProgramError, match="a window in the padding alone"):
        check(lambda x: F.max_pool2d(x, 2, 1, 1, dilation=3), tensors((1, 1, 2, 2)))


@several
@given(shape=st.tuples(size, size, st.integers(1, 8), st.integers(1, 8)), parts=st.tuples(size, size))
def test_adaptive_average_pooling(shape, parts):
    check_all([lambda x: F.adaptive_avg_pool2d(x, parts), lambda x: F.adaptive_avg_pool2d(x, 1)], tensors(shape))


@several
@given(batch=size, parts=st.tuples(size, size), tile=st.tuples(size, size))
def test_adaptive_max_pooling(batch, parts, tile):
    shape = (batch, 2, parts[0] * tile[0], parts[1] * tile[1])
    check_all([lambda x: F.adaptive_max_pool2d(x, parts), lambda x: F.adaptive_max_pool2d(x, 1)], tensors(shape))


def test_adaptive_max_pooling_of_parts_that_differ_is_refused():
    with pytest.raises(ProgramError, match="parts of one size"):
        check(lambda x: F.adaptive_max_pool2d(x, 3), tensors((1, 1, 4, 6)))


ONE_AXIS = (
    lambda x: F.max_pool1d(x, 3, 2, 1),
    lambda x: F.max_pool1d(x, 2, 1, dilation=2, ceil_mode=True),
    lambda x: F.avg_pool1d(x, 3, 2, 1),
    lambda x: F.avg_pool1d(x, 4),
    lambda x: F.avg_pool1d(x, 2, 3, count_include_pad=False, ceil_mode=True),
    lambda x: F.adaptive_avg_pool1d(x, 3),
    lambda x: F.adaptive_avg_pool1d(x, 1),
    lambda x: F.adaptive_max_pool1d(x, 4),
    lambda x: F.max_pool1d(x[0], 2),
    lambda x: F.avg_pool1d(x[0], 3, 1),
)
ONE_IMAGE = (
    lambda x: F.max_pool2d(x, 3, 2, 1),
    lambda x: F.avg_pool2d(x, 3, 1, 1),
    lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
    lambda x: F.adaptive_max_pool2d(x, 1),
)


def test_pooling_over_one_axis():
    check_all(ONE_AXIS, tensors((2, 3, 8)))


def test_pooling_of_a_single_image():
    check_all(ONE_IMAGE, tensors((3, 6, 7)))


@pytest.mark.parametrize("pool", [F.max_pool2d, F.adaptive_max_pool2d])
def test_the_places_of_maxima(pool):
    def function(x: torch.Tensor) -> torch.Tensor:
        y, places = pool(x, 2, return_indices=True)
        return y * places.to(torch.float32)

    check(function, tensors((2, 3, 6, 4)))


PREDICTED = (
    lambda x: F.max_pool2d(x, 3, 2, 1),
    lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    lambda x: F.avg_pool2d(x, 2),
    lambda x: F.avg_pool2d(x, 3, 2, 1),
    lambda x: F.avg_pool2d(x, 3, 2, (1, 0), count_include_pad=False),
    lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=2),
    lambda x: F.adaptive_avg_pool2d(x, 1),
    lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    lambda x: F.adaptive_max_pool2d(x, 1),
    lambda x: F.max_pool1d(x.flatten(2), 3, 2, 1),
    lambda x: F.avg_pool1d(x.flatten(2), 3, 2),
)


@pytest.mark.parametrize("function", PREDICTED)
def test_pooling_of_a_free_batch(function):
    check_prediction(function, (2, 3, 7, 9))
