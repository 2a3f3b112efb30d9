"""Rules of what is random, against torch fed with the same numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from test_compiler_rules import check, draw, tensors
from torch import nn

from fieldkit.errors import ProgramError
from fieldkit.field.engine.session import open_session, run_session
from fieldkit.hq.compiler.capture import capture
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import lower
from fieldkit.hq.compiler.randomness import replayed

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
size = st.integers(1, 4)


class DropPath(nn.Module):
    """Stochastic depth as timm writes it."""

    def __init__(self, chance: float = 0.4) -> None:
        super().__init__()
        self.chance = chance

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1.0 - self.chance)
        kept.div_(1.0 - self.chance)
        return x * kept


class Model(nn.Module):
    """Three kinds of dropout in one model; with batch normalisation torch writes them by other operators."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Conv2d(2, 4, 3), norm, nn.Linear(4, 3)
        self.channels, self.elements, self.path = nn.Dropout2d(0.5), nn.Dropout(0.3), DropPath()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + 0.0
        y = self.channels(torch.relu(self.norm(self.first(x))))
        y = y + self.path(torch.sin(y))
        return self.head(self.elements(y.mean((2, 3))))


RANDOM = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout in place": lambda x: F.dropout(x * 1.0, 0.25, inplace=True),
    "dropout, all": lambda x: F.dropout(x, 1.0) + x,
    "dropout, none": lambda x: F.dropout(x, 0.0),
    "native dropout": lambda x: sum(torch.native_dropout(x, 0.4, train=True)),
    "native dropout, all": lambda x: sum(torch.native_dropout(x, 1.0, train=True)) + x,
    "native dropout, off": lambda x: sum(torch.native_dropout(x, 0.4, train=False)),
    "channels": lambda x: torch.feature_dropout(x, 0.5, train=True),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.2, training=True),
    "alpha dropout, all": lambda x: F.alpha_dropout(x, 1.0, training=True) + x,
    "alpha dropout of channels": lambda x: torch.feature_alpha_dropout(x, 0.5, train=True),
    "bernoulli": lambda x: x * torch.bernoulli(x.detach(), 0.5) + torch.bernoulli(x.detach(), 0.2),
    "bernoulli of 0 and 1": lambda x: x * torch.bernoulli(x.detach(), 1.0) + torch.bernoulli(x.detach(), 0.0),
    "bernoulli of chances": lambda x: x * (x.detach() * 0.0 + 0.3).bernoulli(),
    "bernoulli by a tensor": lambda x: x * torch.empty_like(x).bernoulli_(torch.tensor(0.6)),
    "uniform": lambda x: x * torch.rand_like(x) + torch.empty_like(x).uniform_(-2.0, 1.0),
    "floor": lambda x: x.div(0.8) * (torch.rand_like(x) + 0.8 >= 1.0),
}


@pytest.mark.parametrize("function", RANDOM.values(), ids=RANDOM)
def test_random_functions(function):
    check(function, tensors((3, 2, 4)))


@few
@given(shape=st.tuples(size, size, size, size), chance=st.sampled_from((1e-8, 0.1, 0.5, 0.7, 0.999)))
def test_dropout_of_any_shape(shape, chance):
    def function(x: torch.Tensor) -> torch.Tensor:
        return F.dropout2d(F.dropout(x, chance) + x, chance)

    check(function, tensors(shape))


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.BatchNorm2d(4)], ids=("group", "batch"))
def test_three_kinds_of_dropout_in_one_model(norm):
    check(Model(norm).train(), tensors((5, 2, 6, 6)))
    check(Model(norm).eval(), tensors((5, 2, 6, 6)))


def compiled(function: Callable, shape: tuple[int, ...], *, free_batch: bool = False) -> bytes:
    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x)

    graph = Graph("probe")
    host = {"x": graph.input("x", "float32", ("N", *shape[1:]) if free_batch else shape)}
    program = capture(Module(), {"x": torch.zeros(shape)}, free_batch=free_batch)
    graph.output("y", lower(program, graph, host).outputs[0])
    return graph.serialise()


def test_an_element_is_kept_where_its_uniform_reaches_the_chance_to_drop_it():
    chance = np.float32(0.3)
    near = [0.0, np.nextafter(chance, np.float32(0)), chance, np.nextafter(chance, np.float32(1)), 1 - 2.0**-24]
    session = open_session(compiled(lambda x: F.dropout(x, 0.3), (5,)), "probe", threads=1)
    feeds = {"x": np.ones(5, np.float32), "random.0": np.array(near, np.float32)}
    kept = run_session(session, feeds, "probe")[0] > 0
    assert kept.tolist() == [False, False, True, True, True]


@pytest.mark.parametrize("chance", [0.0, 1e-30, 1.0])
def test_chances_at_the_ends(chance):
    session = open_session(compiled(lambda x: torch.bernoulli(x, 1.0 - chance), (2,)), "probe", threads=1)
    feeds = {"random.0": np.array([0.0, 1 - 2.0**-24], np.float32)}
    np.testing.assert_array_equal(run_session(session, feeds, "probe")[0], [chance < 1.0] * 2)


def test_a_prediction_draws_nothing():
    def dropped(x: torch.Tensor) -> torch.Tensor:
        return F.dropout2d(F.dropout(x, 0.3, training=False), 0.3, training=False) + x

    assert b"random" not in compiled(dropped, (2, 3, 4, 4), free_batch=True)
    with pytest.raises(ProgramError, match="randoms in a prediction"):
        compiled(lambda x: F.dropout(x, 0.3), (2, 3), free_batch=True)
    with pytest.raises(ProgramError, match="an empty tensor"):
        compiled(lambda x: torch.empty_like(x) * 0.0, (2, 3), free_batch=True)


def test_replayed_randoms_must_fit_the_calls():
    x = torch.ones(2, 3)
    right, wrong = draw([(2, 3), (3, 2)])
    with pytest.raises(ProgramError, match=r"found shape \(3, 2\); expected shape \(2, 3\)"), replayed([wrong]):
        F.dropout(x, 0.5)
    with pytest.raises(ProgramError, match="found no more arrays"), replayed([right]):
        F.dropout(F.dropout(x, 0.5), 0.5)
    with pytest.raises(ProgramError, match="fewer randoms than were given"), replayed([right, right]):
        F.dropout(x, 0.5)
    with pytest.raises(ProgramError, match="cannot be replayed"), replayed([right]):
        torch.randn(2, 3)


def test_replayed_plain_randoms():
    first, second = draw([(2, 3), (4,)])
    with replayed([first, second]):
        np.testing.assert_array_equal(torch.rand(2, 3), first)
        np.testing.assert_array_equal(torch.empty(4).uniform_(1.0, 3.0), second * 2 + 1)
