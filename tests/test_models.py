"""Architectures by name, their options, and the laws of their first weights."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Initial
from fieldkit.bundle.weights import initial_weights
from fieldkit.errors import ProgramError, UsageError
from fieldkit.hq.models import ARCHITECTURES, build_model, check_options, model_options
from fieldkit.hq.models.convnet import ConvNetOptions
from fieldkit.hq.models.halving import quickened
from fieldkit.hq.models.laws import carried_buffers, load_weights, parameter_tensors
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.models.twice import twice_differentiable

pytestmark = pytest.mark.hq


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_classifies_and_gives_features(name):
    model = build_model(name, {}, (3, 32, 32), 7)
    images = torch.randn(2, 3, 32, 32)
    assert model(images).shape == (2, 7)
    features = model.features(images)
    assert features.ndim == 2
    torch.testing.assert_close(model.head(features), model(images))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_images_laid_out_by_channels_last_give_the_same(name):
    """As a GPU's tensor cores want them (``problem.suited``), through the gradient of a gradient."""
    module = twice_differentiable(quickened(build_model(name, {}, (3, 16, 16), 4)))
    module.eval()
    plain = torch.rand(5, 3, 16, 16)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        images = plain.contiguous(memory_format=layout).requires_grad_(True)
        with sdpa_kernel(SDPBackend.MATH):
            answers = module(images)
        (gradient,) = torch.autograd.grad(answers.square().sum(), images, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), images)
        found.append((answers.detach(), second))
    for first, other in zip(*found, strict=True):
        assert torch.allclose(first, other, rtol=1e-3, atol=1e-5 * float(first.abs().max()))


def test_a_hard_sigmoid_that_is_differentiated_twice_is_the_plain_one():
    values = torch.linspace(-5, 5, 41)
    replaced = twice_differentiable(nn.Sequential(nn.Hardsigmoid()))
    torch.testing.assert_close(replaced(values), nn.Hardsigmoid()(values))
    shared = nn.Hardsigmoid()
    assert not any(isinstance(each, nn.Hardsigmoid) for each in twice_differentiable(nn.Sequential(shared, shared)))


def test_the_standard_convnet_is_the_fields_own():
    model = build_model("convnet", ConvNetOptions(), (3, 32, 32), 10)
    assert sum(each.numel() for each in model.parameters()) == 320_010
    names = [name for name, _ in model.named_parameters()]
    assert names[:4] == ["blocks.0.conv.weight", "blocks.0.conv.bias", "blocks.0.norm.weight", "blocks.0.norm.bias"]
    assert names[-2:] == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("size", "depth"),
    [((1, 1), 1), ((2, 9), 1), ((3, 3), 1), ((4, 4), 2), ((8, 8), 2), ((16, 16), 2), ((28, 28), 3), ((32, 32), 3),
     ((64, 64), 4), ((200, 31), 3)],
)  # fmt: skip
def test_a_depth_that_nobody_names_follows_from_the_image(size, depth):
    shape = (1, *size)
    assert model_options("convnet", {"width": 8}, shape) == ConvNetOptions(depth=depth, width=8)
    assert model_options("convnet", {"depth": 1}, shape).depth == 1
    assert model_options("convnet", ConvNetOptions(), shape).depth == 3
    if size != (1, 1):
        assert len(build_model("convnet", {"width": 8}, shape, 2).blocks) == depth


@pytest.mark.parametrize("norm", ["instance", "group", "batch", "none"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
def test_odd_images_pass_through_every_kind(norm, pooling):
    model = build_model("convnet", {"depth": 2, "width": 4, "norm": norm, "pooling": pooling}, (1, 7, 5), 2)
    assert model(torch.randn(3, 1, 7, 5)).shape == (3, 2)


def test_an_unknown_architecture_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"resnet1202.*convnet"):
        build_model("resnet1202", {}, (1, 8, 8), 2)


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"height.*depth, width, norm, pooling"):
        check_options("convnet", {"height": 3})


@pytest.mark.parametrize(
    "options", [{"depth": 0}, {"width": 1.5}, {"depth": True}, {"norm": "layer"}, {"pooling": "sum"}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(UsageError, match=f"convnet {next(iter(options))}"):
        ConvNetOptions(**options)


def test_group_normalisation_needs_whole_groups():
    with pytest.raises(UsageError, match="multiple of 4"):
        ConvNetOptions(width=6, norm="group")


@pytest.mark.parametrize(("options", "size"), [({"depth": 3}, (7, 32)), ({"depth": 1, "pooling": "none"}, (1, 1))])
def test_an_image_too_small_for_the_depth_is_refused(options, size):
    with pytest.raises(UsageError, match=f"too small for a depth of .; found {size[0]}x{size[1]} pixels"):
        build_model("convnet", options, (1, *size), 2)


def test_first_weights_follow_torchs_own_laws():
    torch.manual_seed(0)
    model = build_model("convnet", {"depth": 2, "width": 64}, (3, 16, 16), 10)
    own = dict(model.named_parameters())
    tensors = parameter_tensors(model)
    assert [each.name for each in tensors] == list(own)
    drawn = initial_weights(tensors, Initial(), 3)
    for each in tensors:
        values = own[each.name].detach().numpy()
        assert each.shape == values.shape
        kind, number = each.law
        if kind == "constant":
            assert (values == number).all()
        else:
            assert np.abs(values).max() <= number
            if each.size > 500:
                assert np.abs(values).max() > 0.95 * number
                assert values.std() == pytest.approx(drawn[each.name].std(), rel=0.1)


def one(values: torch.Tensor) -> torch.nn.Module:
    """A module with one parameter of its own."""
    module = torch.nn.Module()
    module.own = torch.nn.Parameter(values)
    return module


def law(values: torch.Tensor) -> tuple[str, float]:
    (tensor,) = parameter_tensors(one(values))
    return tensor.law


LAYERS = {
    "convolution": lambda: nn.Conv2d(6, 30, 3, groups=3),
    "transposed convolution": lambda: nn.ConvTranspose2d(30, 6, 3, groups=2),
    "convolution over one axis": lambda: nn.Conv1d(16, 40, 5),
    "linear": lambda: nn.Linear(50, 60),
    "attention": lambda: nn.MultiheadAttention(24, 4),
    "attention of other widths": lambda: nn.MultiheadAttention(24, 4, kdim=12, vdim=16),
    "embedding": lambda: nn.Embedding(50, 30),
}


@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
def test_layers_of_torch_follow_its_laws_exactly(build):
    torch.manual_seed(0)
    module = build()
    often = {name: [] for name, _ in module.named_parameters()}
    for _ in range(40):
        fresh = dict(build().named_parameters())
        for name, values in often.items():
            values.append(fresh[name].detach().numpy())
    tensors = parameter_tensors(module)
    drawn = [initial_weights(tensors, Initial(), seed) for seed in range(40)]
    for each in tensors:
        own, ours = np.stack(often[each.name]), np.stack([weights[each.name] for weights in drawn])
        kind, number = each.law
        if kind == "uniform":
            assert np.abs(own).max() == pytest.approx(number, rel=0.03)
            assert np.abs(own).max() <= number
        assert ours.std() == pytest.approx(own.std(), rel=0.03)
        assert ours.mean() == pytest.approx(own.mean(), abs=0.3 * float(own.std()) + 1e-9)
        if kind != "constant":
            # The table says it, not the sample: the same law comes out of another.
            torch.manual_seed(7)
            again = {tensor.name: tensor.law for tensor in parameter_tensors(build())}
            assert again[each.name] == each.law


NORMS = [
    lambda: nn.GroupNorm(2, 4),
    lambda: nn.BatchNorm2d(4),
    lambda: nn.BatchNorm1d(4),
    lambda: nn.LayerNorm(4),
    lambda: nn.InstanceNorm2d(4, affine=True),
    lambda: nn.RMSNorm(4),
]


@pytest.mark.parametrize("build", NORMS)
def test_normalisations_start_at_1_and_0(build):
    laws = {each.name: each.law for each in parameter_tensors(build())}
    assert laws == {"weight": ("constant", 1.0), "bias": ("constant", 0.0)} or laws == {"weight": ("constant", 1.0)}
    assert parameter_tensors(nn.PReLU(init=0.1))[0].law == ("constant", 0.1)


def test_an_init_of_ones_own_is_measured():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 64, 3)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    weight, bias = parameter_tensors(layer)
    assert weight.law == ("normal", pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05))
    assert bias.law == ("constant", 0.0)
    nn.init.kaiming_uniform_(layer.weight)
    bound = (6 / (8 * 9)) ** 0.5
    assert parameter_tensors(layer)[0].law == ("uniform", pytest.approx(bound, rel=0.01))


@pytest.mark.parametrize("count", [400, 4000])
@pytest.mark.parametrize("seed", range(3))
def test_a_tensor_of_no_known_layer_is_measured(count, seed):
    torch.manual_seed(seed)
    few = 3 / (2 * count) ** 0.5
    assert law(torch.randn(count) * 0.02) == ("normal", pytest.approx(0.02, rel=few))
    assert law(torch.rand(count) * 0.6 - 0.3) == ("uniform", pytest.approx(0.3, rel=few))
    cut = nn.init.trunc_normal_(torch.empty(count), std=0.5, a=-1.0, b=1.0)
    assert law(cut) == ("normal", pytest.approx(0.44, rel=2 * few))
    assert law(torch.full((count,), 1e-6)) == ("constant", 1e-6)


def test_values_around_another_number_become_that_number_or_are_refused():
    torch.manual_seed(0)
    scales = 0.1 + 0.1 * torch.randn(64)
    assert law(scales) == ("constant", pytest.approx(scales.square().mean().sqrt().item(), rel=0.01))
    assert law(-3 + 0.02 * torch.randn(30, 20)) == ("constant", pytest.approx(-3, rel=0.01))
    with pytest.raises(ProgramError, match=r"own: .*no law.*mean 0\.\d+, standard deviation"):
        law(torch.rand(30, 20))


def test_one_value_and_few_values_have_laws():
    assert law(torch.tensor(2.5)) == ("constant", 2.5)
    assert law(torch.tensor([0.5])) == ("constant", 0.5)
    kind, number = law(torch.tensor([-0.5, 0.5, 0.25]))
    assert (kind, number) == ("uniform", pytest.approx(0.667, rel=0.01))


def test_frozen_parameters_keep_their_values():
    layer = nn.Linear(3, 2)
    layer.weight.requires_grad_(False)
    assert [each.name for each in parameter_tensors(layer)] == ["bias"]


def test_running_statistics_are_carried_and_nothing_else():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(3))

    layers = [nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.BatchNorm2d(5, track_running_stats=False), Own()]
    model = nn.Sequential(*layers, nn.Sequential(nn.BatchNorm1d(2, affine=False)))
    assert [(each.name, each.shape, each.law) for each in carried_buffers(model)] == [
        ("1.running_mean", (5,), ("constant", 0.0)),
        ("1.running_var", (5,), ("constant", 1.0)),
        ("4.0.running_mean", (2,), ("constant", 0.0)),
        ("4.0.running_var", (2,), ("constant", 1.0)),
    ]
    names = [each.name for each in parameter_tensors(model)]
    assert names == [name for name, _ in model.named_parameters()]
    model[1].requires_grad_(False)
    assert [each.name for each in carried_buffers(model)] == ["4.0.running_mean", "4.0.running_var"]
    trunk = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5, affine=False)).requires_grad_(False)
    assert carried_buffers(nn.Sequential(trunk, nn.Linear(5, 2))) == ()


def test_loaded_statistics_are_the_modules():
    model = build_model("convnet", {"depth": 1, "width": 2, "norm": "batch"}, (1, 4, 4), 2)
    tensors = (*parameter_tensors(model), *carried_buffers(model))
    weights = initial_weights(tensors, Initial(), 5) | {"blocks.0.norm.running_var": np.float32([2, 3])}
    load_weights(model, weights)
    for name, values in weights.items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), values)


def test_loaded_weights_are_the_modules():
    model = build_model("convnet", {"depth": 1, "width": 2}, (1, 4, 4), 2)
    weights = initial_weights(parameter_tensors(model), Initial(), 5)
    load_weights(model, weights)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.detach().numpy(), weights[name])


def test_normalised_counts_have_mean_0_and_std_1_and_go_back():
    images = np.random.default_rng(0).integers(0, 60_000, (20, 2, 6, 6)).astype(np.uint16)
    normalise = Normalise(Radiometry.measure(images))
    normalised = normalise(torch.from_numpy(images))
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3)), torch.ones(2), atol=1e-2, rtol=0)
    restored = normalise.restore(normalised).numpy()
    np.testing.assert_allclose(restored, images, atol=0.05)
