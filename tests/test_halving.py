"""The quick 2x2 average pooling against torch's own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from fieldkit.hq.models import build_model
from fieldkit.hq.models.halving import HalvingMean, quickened

pytestmark = pytest.mark.hq

SHAPES = [(2, 3, 8, 6), (1, 2, 7, 5), (3, 1, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_means_and_their_gradients_are_torchs(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    plain, quick = nn.AvgPool2d(2)(images), HalvingMean()(images)
    torch.testing.assert_close(quick, plain)
    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad((plain * weights).sum(), images)
    (found,) = torch.autograd.grad((quick * weights).sum(), images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_gradients_agree_with_finite_differences(shape: tuple[int, ...]) -> None:
    images = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pool = HalvingMean()
    assert torch.autograd.gradcheck(pool, images)
    assert torch.autograd.gradgradcheck(lambda each: pool(each).square(), images)


def test_each_of_many_gradients_at_once() -> None:
    images = torch.randn(4, 1, 2, 5, 6, generator=torch.Generator().manual_seed(0))

    def loss(pool: nn.Module, each: torch.Tensor) -> torch.Tensor:
        return pool(each).square().sum()

    found = torch.func.vmap(torch.func.grad(lambda each: loss(HalvingMean(), each)))(images)
    expected = [torch.func.grad(lambda each: loss(nn.AvgPool2d(2), each))(each) for each in images]
    torch.testing.assert_close(found, torch.stack(expected))


def test_a_network_answers_as_before_with_the_same_parameters() -> None:
    module = build_model("convnet", {"depth": 2, "width": 4}, (1, 9, 8), 3)
    images = torch.randn(2, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    names, before = list(module.state_dict()), module(images)
    assert quickened(module) is module
    assert sum(isinstance(each, HalvingMean) for each in module.modules()) == 2
    assert list(module.state_dict()) == names
    torch.testing.assert_close(module(images), before)


@pytest.mark.parametrize(
    "pool",
    [nn.AvgPool2d(3), nn.AvgPool2d(2, stride=1), nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2, ceil_mode=True)],
)
def test_other_poolings_stay(pool: nn.Module) -> None:
    module = nn.Sequential(pool)
    quickened(module)
    assert module[0] is pool
