"""Rules of reductions against torch's own autograd, over drawn shapes."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiler_rules import check, check_all, tensors
from torch.nn import functional

from fieldkit.errors import ProgramError

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
size = st.sampled_from((1, 2, 3, 5))

SUMS = (
    lambda x: x.sum((0, 2, 3)),
    lambda x: x.mean((0, 2), keepdim=True),
    lambda x: x.sum((1, 3)),
    lambda x: x.cumsum(1),
    lambda x: x.cumsum(-1),
    lambda x: torch.logsumexp(x, 1),
    lambda x: torch.logsumexp(x, (2, 3), keepdim=True),
)
NORMS = (
    lambda x: x.norm(dim=1),
    lambda x: x.norm(),
    lambda x: x.norm(p=1, dim=(2, 3), keepdim=True),
    lambda x: torch.linalg.vector_norm(x, dim=(0, 2)),
    lambda x: functional.normalize(x, dim=1),
)
EXTREMES = (
    torch.max,
    torch.min,
    lambda x: x.amax(1),
    lambda x: x.amin((2, 3), keepdim=True),
    lambda x: x.max(1).values,
    lambda x: x.min(-1, keepdim=True).values,
    lambda x: x.max(2)[1] * x.sum(2),
    lambda x: x.argmax(1, keepdim=True) * x,
    lambda x: x.argmax() * x,
)


COSINES = (
    functional.cosine_similarity,
    lambda a, b: functional.cosine_similarity(a, b[:1], dim=2),
    lambda a, b: functional.cosine_similarity(a, b[0], dim=-1),
    lambda a, b: torch._weight_norm(a, b[:, :1, :1, :1].abs() + 0.5),
    lambda a, b: torch._weight_norm(a, b[:1, :1, :1].abs() + 0.5, 3),
)


@few
@given(shape=st.tuples(size, size, size, st.sampled_from((2, 3, 5))))
def test_directions(shape):
    check_all(COSINES, tensors(shape, shape))


def test_a_layer_under_weight_normalisation():
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, 4, 3))
    check(layer, tensors((2, 3, 5, 5)))


@few
@given(shape=st.tuples(size, size, size, size))
def test_sums_norms_and_extremes(shape):
    check_all(SUMS + NORMS + EXTREMES, tensors(shape))


def test_sums_of_large_tensors():
    """Too many places for a constant of their own."""
    check_all((torch.sum, torch.mean, lambda x: x.mean((0, 2))), tensors((2, 3, 70, 70)))


def test_equal_extremes_share_the_gradient_and_the_first_takes_it():
    x = torch.tensor([[1.0, 3.0, 3.0, -2.0, -2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    check_all((torch.max, lambda x: x.amax(1), lambda x: x.amin(1)), [x])
    check_all((lambda x: x.max(1)[0], lambda x: x.min(1)[0]), [x])


def test_a_norm_of_zero_passes_nothing():
    check(lambda x: x.norm(dim=1), [torch.zeros(2, 3)])


def test_a_single_number():
    check_all((torch.amax, lambda x: x.max(0)[0], torch.sum, lambda x: torch.logsumexp(x, 0)), [torch.tensor(3.0)])


def test_a_norm_of_another_order_is_refused():
    with pytest.raises(ProgramError, match="not compiled in this form"):
        check(lambda x: x.norm(p=3), tensors((3, 2)))
