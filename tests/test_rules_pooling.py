"""The rules of pooling against torch's autograd, and in a program with a free batch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiler_rules import check, tensors

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
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
