"""Rules that move, repeat, look up and fill elements, against torch's own autograd; and with a free batch."""

from __future__ import annotations

from collections.abc import Callable

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
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import lower

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
size = st.sampled_from((1, 2, 3, 5))


class Called(torch.nn.Module):
    """A function of images as a module."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def check_free(function: Callable, *shape: int) -> None:
    """``function`` compiled for a free batch is torch's own for batches of one and three."""
    (x,) = tensors((3, *shape))
    graph = Graph("free")
    captured = capture(Called(function).eval(), {"x": x}, free_batch=True)
    graph.output("y", lower(captured, graph, {"x": graph.input("x", "float32", ("N", *shape))}).outputs[0])
    session = open_session(graph.serialise(), "free", threads=1)
    for batch in (x, x[:1]):
        (found,) = run_session(session, {"x": batch.numpy()}, "free")
        np.testing.assert_allclose(found, function(batch).numpy(), rtol=1e-4, atol=1e-4)


def overwritten(x: torch.Tensor) -> torch.Tensor:
    y = x * 1.0
    y[:, 1:3] = x[:, :2] * 2.0
    y[:, 0] = x[:, 3] + 1.0
    y[:, :, -1] = 0.5
    return y + x


def copied(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x)
    y.copy_(x[:, :1])
    return y * x


PARTS = (
    lambda x: x.split(3, 1)[1] * x.split(3, 1)[0][:, :1],
    lambda x: torch.cat(x.split([1, 2, 1], dim=1)[::-1], 1),
    lambda x: x.split([3, 1], dim=1)[0],
    lambda x: x.split(4, 1)[0] * 2.0,
    lambda x: x.split([1, 1, 2], dim=1)[1] * x.split([1, 1, 2], dim=1)[0],
    lambda x: torch.cat(x.chunk(3, dim=1)[::-1], 1),
    lambda x: torch.cat(x.tensor_split(3, dim=1)[::-1], 1),
    lambda x: x.tensor_split((1, 2), dim=1)[2],
    lambda x: x.unbind(1)[2] * x.unbind(1)[0],
    lambda x: x.narrow(1, 1, 2),
    lambda x: torch.cat((x, torch.zeros_like(x), torch.ones(x.shape[0], 1, 1, 1).expand(-1, 2, *x.shape[2:])), 1),
    lambda x: torch.stack([x, torch.full_like(x, 2.0), x * x], 1),
    overwritten,
    copied,
)
ORDERS = (
    lambda x: x.roll((1, -1), (1, 2)),
    lambda x: x.roll(3, -1),
    lambda x: x.flip(1, -1),
    lambda x: x.movedim(1, -1),
    lambda x: torch.movedim(x, (1, 2), (2, 1)).swapaxes(1, 3),
    lambda x: x.mT * 2.0,
    lambda x: x.flatten(2).unflatten(1, (2, 2)).contiguous(),
    lambda x: functional.channel_shuffle(x, 2),
    lambda x: functional.pixel_shuffle(x, 2),
    lambda x: functional.pixel_unshuffle(x.repeat(1, 1, 2, 2), 2),
    lambda x: x.repeat(1, 2, 1, 3),
    lambda x: x.tile(2, 1),
    lambda x: x.mean(1, keepdim=True).expand_as(x) * x,
    lambda x: torch.broadcast_to(x[:, :1], x.shape) * x,
    lambda x: x.view_as(x * 2.0).ravel(),
)
LOOK_UPS = (
    lambda x: x[:, [0, 2, 1, 0]],
    lambda x: x[:, torch.tensor([3, -1, 0])],
    lambda x: x[:, torch.tensor([[3, 1], [0, 2]])],
    lambda x: x.index_select(1, torch.tensor([2, 0, 3, 1])),
    lambda x: x[:, [0, 3, 0], [[0], [-1]]],
    lambda x: x.repeat_interleave(3, dim=1),
    lambda x: x.repeat_interleave(2, dim=-1),
)
FILLED = (
    lambda x: x + torch.zeros_like(x) + torch.ones_like(x) + torch.full_like(x, 2.0),
    lambda x: torch.cat([x, x.new_zeros(x.shape[0], 1, *x.shape[2:]), x.new_ones(1).expand_as(x)], 1),
    lambda x: torch.cat([torch.full((x.shape[0], 1, *x.shape[2:]), 2.0), x], 1),
    lambda x: torch.cat([torch.arange(4.0).reshape(1, 4, 1, 1).expand(x.shape[0], -1, *x.shape[2:]), x], 1),
    lambda x: torch.cat([torch.arange(4.0).reshape(1, 4, 1, 1).repeat(x.shape[0], 1, *x.shape[2:]), x], 1),
    lambda x: (
        x * torch.tril(torch.ones(4, 4))[:, 1:2, None]
        + torch.meshgrid(torch.arange(4.0), torch.ones(1), indexing="ij")[0][..., None]
    ),
    lambda x: torch.zeros(x.shape[0], 4, 1, 1).cumsum(1).sin() + x,
)
SUMS = (
    lambda x: torch.einsum("nchw->nc", x),
    lambda x: torch.einsum("nchw,ndhw->ncd", x, x),
    lambda x: torch.einsum("nchw,nc->nhwc", x, x.mean((2, 3))),
    lambda x: torch.einsum("nchw, ck -> nkhw", x, torch.arange(8.0).reshape(4, 2).cos()),
    lambda x: torch.einsum("nchw,nchw->n", x, x * 2.0),
    lambda x: torch.einsum("nchw,ndhk", x, x),
    lambda x: torch.einsum("nchw,nd->nd", x, x[:, :, 0, 0]),
)
GROUPS = {"parts": PARTS, "orders": ORDERS, "look-ups": LOOK_UPS, "filled": FILLED, "sums": SUMS}


@pytest.mark.parametrize("functions", GROUPS.values(), ids=GROUPS)
@few
@given(batch=size, height=size, width=size)
def test_gradients(functions, batch, height, width):
    check_all(functions, tensors((batch, 4, height, width)))


@pytest.mark.parametrize("functions", GROUPS.values(), ids=GROUPS)
def test_a_free_batch(functions):
    for function in functions:
        check_free(function, 4, 3, 2)


def test_axes_of_one_sample_may_be_repeated_over_the_batch():
    """Class tokens and position codes, as transformers add them."""
    token = torch.arange(6.0).reshape(1, 1, 6)

    def function(x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat((token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)), 1)
        windows = tokens.reshape(-1, 5, 2, 3).permute(0, 2, 1, 3).reshape(-1, 5, 3)
        return torch.softmax(windows @ windows.mT, -1).view(x.shape[0], 2, 5, 5).sum(1)

    check_free(function, 6, 2, 2)


PADDINGS = (
    lambda x: functional.pad(x, (1, 2, 0, 1), value=3.0),
    lambda x: functional.pad(x, (2, 1, 1, 0), mode="reflect"),
    lambda x: functional.pad(x, (1, 2, 3, 0), mode="replicate"),
    lambda x: functional.pad(x, (1, 2, 0, 2), mode="circular"),
    torch.nn.ReflectionPad2d(1),
    lambda x: functional.pad(x, (-1, 2, 1, -1), value=-1.0),
)


@few
@given(batch=size, height=st.integers(3, 5), width=st.integers(3, 5))
def test_padding(batch, height, width):
    check_all(PADDINGS, tensors((batch, 2, height, width)))


def test_padding_of_a_free_batch():
    for function in PADDINGS:
        check_free(function, 2, 4, 3)


@few
@given(rows=size, columns=st.integers(1, 4), indices=st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_tables(rows, columns, indices):
    index = torch.tensor(indices) % rows
    check(lambda table: table[index], tensors((rows, columns)))
    check(lambda table: functional.embedding(index[None], table), tensors((rows, columns)))
    check(lambda table: table[:, index.reshape(-1, 1)], tensors((columns, rows)))


@pytest.mark.parametrize("side", [3, 12])
def test_relative_positions(side):
    """As Swin and LeViT look up the bias of each pair of places; the index of 12x12 places is a large constant."""
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
    offset = grid[:, :, None] - grid[:, None] + side - 1
    index = offset[0] * (2 * side - 1) + offset[1]

    def swin(table: torch.Tensor) -> torch.Tensor:
        return table[index.view(-1)].view(side**2, side**2, -1).permute(2, 0, 1).contiguous().unsqueeze(0)

    check(swin, tensors(((2 * side - 1) ** 2, 2)))
    check(lambda table: table[:, index], tensors((2, (2 * side - 1) ** 2)))


def test_windows_rolled_and_parted():
    """The shifted windows of Swin."""

    def function(x: torch.Tensor) -> torch.Tensor:
        n, height, width, channels = x.shape
        shifted = torch.roll(x, shifts=(-1, -1), dims=(1, 2))
        windows = shifted.view(n, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        windows = windows.contiguous().view(-1, 4, channels).flip(1)
        back = windows.view(-1, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        return torch.roll(back.contiguous().view(-1, height, width, channels), (1, 1), (1, 2))

    check(function, tensors((2, 4, 6, 3)))
    check_free(function, 4, 6, 3)


def test_filling_with_a_number_that_trains():
    def function(x: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        y = x * 2.0
        y[:, 1] = number
        return y

    check(function, [*tensors((3, 4)), torch.tensor(0.7)])


def test_the_gradient_of_a_product_of_three_axes():
    check(lambda a, b: torch.einsum("nqhd,nkhd->nhqk", a, b), tensors((2, 3, 2, 5), (2, 4, 2, 5)))
    check(lambda a, b: torch.einsum("ij,jk", a, b) * torch.einsum("ij,jk->k", a, b), tensors((2, 3), (3, 4)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, x[0].argsort()],
        lambda x: x[:, [True, False, True]],
        lambda x: x[None, torch.tensor([0, 1])][torch.tensor([0]), :, torch.tensor([0])],
        lambda x: torch.einsum("nii->n", x[..., None].expand(-1, -1, 3)),
        lambda x: torch.einsum("ni,ni,ni->n", x, x, x),
        lambda x: torch.triu(x),
        lambda x: functional.embedding(torch.tensor([0, 1]), x, padding_idx=0),
        lambda x: functional.embedding(torch.tensor([0, 1]), x, scale_grad_by_freq=True),
    ],
)
def test_forms_without_a_rule_are_refused(function):
    with pytest.raises(ProgramError):
        check(function, tensors((2, 3)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[: x.shape[0] // 2],
        lambda x: x / x.shape[0],
        lambda x: torch.cat((x, x)),
        lambda x: x.repeat(x.shape[0], 1),
        lambda x: x.split(1)[0],
        lambda x: x[0],
    ],
)
def test_what_looks_across_a_free_batch_is_refused(function):
    with pytest.raises(ProgramError):
        check_free(function, 3)
