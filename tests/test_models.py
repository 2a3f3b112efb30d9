"""Architectures by name, their options, and the laws of their first weights."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Initial
from fieldkit.bundle.weights import initial_weights
from fieldkit.errors import UsageError
from fieldkit.hq.models import ARCHITECTURES, build_model, check_options, model_options
from fieldkit.hq.models.convnet import ConvNetOptions
from fieldkit.hq.models.laws import load_weights, parameter_tensors
from fieldkit.hq.models.normalisation import Normalise

pytestmark = pytest.mark.hq


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_classifies_and_gives_features(name):
    model = build_model(name, {}, (3, 32, 32), 7)
    images = torch.randn(2, 3, 32, 32)
    assert model(images).shape == (2, 7)
    features = model.features(images)
    assert features.ndim == 2
    torch.testing.assert_close(model.head(features), model(images))


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
