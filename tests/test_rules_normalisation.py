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
from fieldkit.field.session import open_session, run_session
from fieldkit.hq.compiler.capture import capture
from fieldkit.hq.compiler.graph import Graph
from fieldkit.hq.compiler.lowering import lower

pytestmark = pytest.mark.hq

few = settings(max_examples=6, deadline=None, derandomize=True)
size = st.integers(1, 4)
# After batch and channels: none (2-d), one or two axes; small ones and enough pixels for the other order of sums.
places = st.sampled_from([(), (1,), (5,), (1, 1), (3, 2), (7, 6)])


def batch_norm(module: nn.Module, channels: int, seed: int = 3) -> nn.Module:
    """``module`` with parameters and statistics that are not those of a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in [*module.named_parameters(), *module.named_buffers()]:
            if each.is_floating_point():
                each.copy_(torch.rand(each.shape, generator=generator) + (0.5 if "var" in name else -0.2))
    return module


class Norm(nn.Module):
    """Batch normalisation of any rank."""

    def __init__(self, channels: int, rank: int, **options: object) -> None:
        super().__init__()
        kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
        self.norm = batch_norm(kinds[rank](channels, **options), channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)


def predicted(module: Callable, x: np.ndarray) -> np.ndarray:
    """What a program with a free batch makes of x."""
    graph = Graph("predict")
    host = {"x": graph.input("x", "float32", ("N", *x.shape[1:]))}
    wrapped = module if isinstance(module, nn.Module) else Wrapped(module)
    known = {name: graph.constant(each.detach().numpy()) for name, each in wrapped.named_parameters()}
    lowered = lower(capture(wrapped.eval(), {"x": torch.from_numpy(x)}, free_batch=True), graph, host | known)
    graph.output("y", lowered.outputs[0])
    assert not lowered.tape
    return run_session(open_session(graph.serialise(), "predict", threads=1), {"x": x}, "predict")[0]


class Wrapped(nn.Module):
    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def check_prediction(module: Callable, shape: tuple[int, ...]) -> None:
    (x,) = tensors(shape, seed=5)
    expected = (module.eval() if isinstance(module, nn.Module) else module)(x)
    np.testing.assert_allclose(predicted(module, x.numpy()), expected.detach().numpy(), rtol=1e-4, atol=1e-5)


@few
@given(batch=st.integers(2, 4), channels=size, place=places, affine=st.booleans(), momentum=st.sampled_from((0.1, 1.0)))
def test_batch_norm_in_training_carries_its_statistics(batch, channels, place, affine, momentum):
    x = tensors((batch, channels, *place))
    check(Norm(channels, 2 + len(place), affine=affine, momentum=momentum), x)


@few
@given(batch=st.integers(2, 4), channels=size, place=places, weight=st.booleans(), bias=st.booleans())
def test_batch_norm_by_functions(batch, channels, place, weight, bias):
    x, w, b = tensors((batch, channels, *place), (channels,), (channels,))
    mean, variance = tensors((channels,), (channels,), seed=2)
    variance = variance.abs() + 0.1
    given_ones = [x, *[w] * weight, *[b] * bias]

    def affine(parameters: tuple) -> dict:
        names = [*["weight"] * weight, *["bias"] * bias]
        return dict(zip(names, parameters, strict=True))

    def of_batch(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, None, None, training=True, **affine(parameters))

    def frozen(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, mean, variance, training=False, **affine(parameters))

    check_all([of_batch, frozen], given_ones)
