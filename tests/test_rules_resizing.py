"""The rules of resizing against torch's autograd, and in a program with a free batch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiler_rules import check, check_all, tensors
from test_rules_normalisation import check_prediction

pytestmark = pytest.mark.hq

several = settings(max_examples=10, deadline=None, derandomize=True)
size = st.integers(1, 3)
side = st.integers(1, 7)
MODES = (
    {"mode": "nearest"},
    {"mode": "nearest-exact"},
    {"mode": "bilinear", "align_corners": False},
    {"mode": "bilinear", "align_corners": True},
    {"mode": "bilinear", "antialias": True},
    {"mode": "bicubic", "align_corners": True},
    {"mode": "bicubic", "antialias": True},
)


def resizings(modes, **target):
    return [lambda x, mode=mode: F.interpolate(x, **target, **mode) for mode in modes]


@several
@given(batch=size, channels=size, old=st.tuples(side, side), new=st.tuples(side, side))
def test_resizing_to_a_size(batch, channels, old, new):
    check_all(resizings(MODES, size=new), tensors((batch, channels, *old)))


@several
@given(
    old=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    scale=st.sampled_from([2.0, 3.0, 0.5, 1.7, (1.3, 2.0), (0.7, 1.0), (2.5, 0.6)]),
    again=st.booleans(),
)
def test_resizing_by_a_scale(old, scale, again):
    check_all(resizings(MODES, scale_factor=scale, recompute_scale_factor=again), tensors((2, 2, *old)))


@several
@given(old=side, new=side)
def test_resizing_along_one_axis(old, new):
    check_all(resizings(({"mode": "nearest"}, {"mode": "linear"}), size=new), tensors((2, 3, old)))


@pytest.mark.parametrize("scale", [2, (1, 3)])
@pytest.mark.parametrize("width", [6, 70])
def test_repeating_pixels(scale, width):
    check(lambda x: F.interpolate(x, scale_factor=scale), tensors((1, 2, 2, width)))


def test_resizing_of_larger_images():
    check_all(resizings(MODES, size=(17, 40)), tensors((1, 2, 30, 19)))


@pytest.mark.parametrize("mode", MODES)
def test_resizing_of_a_free_batch(mode):
    check_prediction(lambda x: F.interpolate(x, size=(5, 12), **mode), (2, 3, 7, 6))
    check_prediction(lambda x: F.interpolate(x, scale_factor=2, **mode), (2, 3, 4, 5))


def test_resizing_along_one_axis_of_a_free_batch():
    check_prediction(lambda x: F.interpolate(x, size=5, mode="linear"), (2, 3, 7))
