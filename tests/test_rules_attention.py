"""The rules of matrix products and attention against torch's autograd."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiler_rules import check, check_all, tensors
from test_rules_normalisation import check_prediction
from torch import nn

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
size = st.integers(1, 4)


@few
@given(leading=st.lists(size, max_size=3), inputs=size, outputs=size, bias=st.booleans())
def test_linear_of_any_rank(leading, inputs, outputs, bias):
    shapes = [(*leading, inputs), (outputs, inputs), (outputs,)][: 3 if bias else 2]
    check(F.linear, tensors(*shapes))


@st.composite
def products(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes whose product torch knows: vectors, matrices, and batches of them that broadcast."""
    m, k, n = draw(size), draw(size), draw(size)
    full = draw(st.lists(size, max_size=2))
    first, second = ([1 if draw(st.booleans()) else n for n in full][draw(st.integers(0, len(full))) :] for _ in "ab")
    left, right = draw(st.sampled_from([(k,), (*first, m, k)])), draw(st.sampled_from([(k,), (*second, k, n)]))
    return left, right


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shapes=products())
def test_matmul(shapes):
    check(torch.matmul, tensors(*shapes))


@few
@given(batch=size, m=size, k=size, n=size, factors=st.sampled_from([(1, 1), (0.5, 2.0), (0, 1)]))
def test_products_with_a_sum(batch, m, k, n, factors):
    beta, alpha = factors
    for offset in ((n,), (m, 1), (m, n)):
        check(lambda *given: torch.addmm(*given, beta=beta, alpha=alpha), tensors(offset, (m, k), (k, n)))
    shapes = ((batch, m, n), (batch, m, k), (batch, k, n))
    check(lambda *given: torch.baddbmm(*given, beta=beta, alpha=alpha), tensors(*shapes))


def test_products_of_vectors():
    check_all([lambda a, b: torch.outer(a, b), lambda a, b: torch.dot(a, a) * b], tensors((3,), (4,)))
    check(torch.mv, tensors((3, 2), (2,)))
    check(torch.bmm, tensors((2, 3, 4), (2, 4, 1)))


@few
@given(
    leading=st.lists(size, max_size=2),
    lengths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    widths=st.tuples(size, size),
    scale=st.sampled_from([None, 0.3]),
)
def test_attention(leading, lengths, widths, scale):
    (queries, keys), (width, out) = lengths, widths
    shapes = ((*leading, queries, width), (*leading, keys, width), (*leading, keys, out))
    allowed = torch.arange(queries * keys).reshape(queries, keys) % 3 != 1
    allowed[:, 0] = True
    check_all(
        [
            lambda *given: F.scaled_dot_product_attention(*given, scale=scale),
            lambda *given: F.scaled_dot_product_attention(*given, scale=scale, is_causal=True),
            lambda *given: F.scaled_dot_product_attention(*given, scale=scale, attn_mask=allowed),
        ],
        tensors(*shapes),
    )


@few
@given(leading=st.sampled_from([(), (2,), (2, 3)]), mask=st.sampled_from([(4, 5), (1, 5), (3, 4, 5), (2, 1, 4, 5)]))
def test_attention_with_a_bias_that_is_trained(leading, mask):
    if len(mask) > len(leading) + 2 or (len(mask) == 3 and leading[-1:] == (2,)):
        mask = mask[-2:]
    shapes = ((*leading, 4, 2), (*leading, 5, 2), (*leading, 5, 3), mask)
    check(F.scaled_dot_product_attention, tensors(*shapes))


def test_attention_of_a_token_that_may_look_nowhere():
    def function(*given: torch.Tensor) -> torch.Tensor:
        seen = torch.tensor([[True, False], [False, False], [True, True]])
        return F.scaled_dot_product_attention(*given, attn_mask=seen)

    def computed(*given: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*given, attn_mask=given[0][..., :2] < 0.3)

    check(function, tensors((2, 3, 4), (2, 2, 4), (2, 2, 5)))
    check(computed, tensors((2, 3, 4), (2, 2, 4), (2, 2, 5)))


def test_attention_with_dropout():
    shapes = ((2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 4))
    check(lambda *given: F.scaled_dot_product_attention(*given, dropout_p=0.4), tensors(*shapes))


class Mixing(nn.Module):
    """torch's own attention layer over tokens [n, t, 6]."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.need_weights = bool(options.pop("need_weights"))
        self.layer = nn.MultiheadAttention(6, 2, **options)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mixed, weights = self.layer(tokens, tokens, tokens, need_weights=self.need_weights)
        return mixed if weights is None else torch.cat([mixed.flatten(), weights.flatten()])


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("options", [{"batch_first": True}, {"bias": False}, {"dropout": 0.3}])
@pytest.mark.parametrize("training", [True, False])
def test_the_attention_layer_of_torch(need_weights, options, training):
    torch.manual_seed(0)
    check(Mixing(need_weights=need_weights, **options).train(training), tensors((3, 4, 6)))


@pytest.mark.parametrize("training", [True, False])
def test_the_transformer_layer_of_torch(training):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=True)
    check(layer.train(training), tensors((3, 4, 6)))


FREE = (
    lambda x: x @ x.transpose(1, 2),
    lambda x: torch.ones(2, 3) @ x,
    lambda x: x @ torch.ones(4),
    lambda x: F.linear(x, torch.ones(5, 4), torch.arange(5.0)),
    lambda x: torch.addmm(torch.arange(5.0), x.flatten(1), torch.ones(12, 5), beta=0.5),
    lambda x: torch.baddbmm(x, x, torch.ones(1, 4, 4).expand(x.shape[0], 4, 4)),
    lambda x: F.scaled_dot_product_attention(x, x, x),
    lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=x.sum(2, keepdim=True) < 0.5),
    lambda x: F.scaled_dot_product_attention(*(x.unflatten(2, (2, 2)).transpose(1, 2) for _ in "qkv")),
)


@pytest.mark.parametrize("function", FREE)
def test_products_of_a_free_batch(function):
    check_prediction(function, (2, 3, 4))


@pytest.mark.parametrize("options", [{"batch_first": True}, {}])
def test_the_attention_layer_of_a_free_batch(options):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, **options).eval()

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x if options else x.transpose(0, 1)
            mixed, weights = self.layer(x, x, x)
            return mixed * weights.sum() if options else mixed.transpose(0, 1)

    check_prediction(Layer(), (2, 3, 4))
