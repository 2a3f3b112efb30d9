"""The one definition of augmentation: what each column of uniforms does to an image."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle.recipe import Augmentation
from fieldkit.errors import UsageError
from fieldkit.hq.augmentation import augment, column_names

pytestmark = pytest.mark.hq

IMAGES = torch.randn(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
STRENGTHS = st.builds(
    Augmentation,
    shift=st.sampled_from((0.0, 0.2)),
    scale=st.sampled_from((0.0, 0.3)),
    rotate=st.sampled_from((0.0, 20.0)),
    flip=st.booleans(),
    brightness=st.sampled_from((0.0, 0.4)),
    contrast=st.sampled_from((0.0, 0.4)),
    cutout=st.sampled_from((0.0, 0.5)),
)


def changed(augmentation: Augmentation, *uniforms: float, images: torch.Tensor = IMAGES) -> torch.Tensor:
    """Both images changed by one row of uniforms."""
    return augment(images, torch.tensor([uniforms] * len(images)), augmentation)


@given(augmentation=STRENGTHS)
def test_there_is_one_column_per_uniform(augmentation):
    assert len(column_names(augmentation)) == augmentation.width


@settings(max_examples=25, deadline=None, derandomize=True)
@given(augmentation=STRENGTHS, seed=st.integers(0, 99))
def test_any_change_keeps_shape_and_lets_gradients_through(augmentation, seed):
    images = IMAGES.clone().requires_grad_(True)
    uniforms = torch.rand((2, augmentation.width), generator=torch.Generator().manual_seed(seed))
    result = augment(images, uniforms, augmentation)
    assert result.shape == images.shape
    assert torch.isfinite(result).all()
    (gradient,) = torch.autograd.grad(result.square().sum(), images)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_no_strength_leaves_the_images_alone():
    assert changed(Augmentation()) is IMAGES


@pytest.mark.parametrize("name", ["shift", "scale", "rotate", "brightness", "contrast"])
def test_the_middle_of_the_range_changes_nothing(name):
    augmentation = Augmentation(**{name: 0.3})
    result = changed(augmentation, *[0.5] * augmentation.width)
    torch.testing.assert_close(result, IMAGES, atol=1e-5, rtol=0)


def test_flip_mirrors_half_of_the_time():
    torch.testing.assert_close(changed(Augmentation(flip=True), 0.49), IMAGES.flip(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(changed(Augmentation(flip=True), 0.5), IMAGES, atol=1e-5, rtol=0)


def test_shift_moves_by_whole_pixels_and_repeats_the_border():
    # A quarter of 8 rows is 2; a quarter of 6 columns is 1.5, half of which is no shift at all.
    down = changed(Augmentation(shift=0.25), 0.0, 0.5)
    torch.testing.assert_close(down[:, :, 2:], IMAGES[:, :, :-2], atol=1e-5, rtol=0)
    torch.testing.assert_close(down[:, :, 0], IMAGES[:, :, 0], atol=1e-5, rtol=0)


def test_rotation_keeps_an_oblong_image_in_shape():
    # A quarter turn of the 6x6 middle, although the image is 8x6.
    turned = changed(Augmentation(rotate=90.0), 1.0)
    middle = IMAGES[:, :, 1:7]
    ways = [torch.rot90(middle, turn, (2, 3)) for turn in (1, 3)]
    assert min((turned[:, :, 1:7] - each).abs().max() for each in ways) < 1e-4


def test_scale_zooms_about_the_middle():
    smooth = torch.linspace(-1, 1, 8).reshape(1, 1, 8, 1).expand(1, 1, 8, 6)
    larger = changed(Augmentation(scale=1.0), 1.0, images=smooth)
    torch.testing.assert_close(larger[0, 0, 2:6], 0.5 * smooth[0, 0, 2:6], atol=1e-5, rtol=0)


def test_brightness_and_contrast():
    torch.testing.assert_close(changed(Augmentation(brightness=0.5), 1.0), IMAGES + 0.5)
    mean = IMAGES.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(changed(Augmentation(contrast=0.5), 0.0), mean + 0.5 * (IMAGES - mean))


def test_cutout_erases_a_square_to_the_mean():
    result = changed(Augmentation(cutout=0.5), 0.5, 0.5)
    assert (result[:, :, 2:6, 2:4] == 0).all()
    kept = torch.ones(8, 6, dtype=torch.bool)
    kept[2:6, 2:4] = False
    rows, columns = torch.where(result[0, 0] == 0)
    assert rows.min() == 2
    assert rows.max() == 5
    assert columns.max() - columns.min() + 1 in (2, 3, 4)
    torch.testing.assert_close(result[:, :, :2], IMAGES[:, :, :2])


def test_every_image_has_its_own_change():
    result = augment(IMAGES, torch.tensor([[0.2], [0.8]]), Augmentation(flip=True))
    torch.testing.assert_close(result[0], IMAGES[0].flip(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(result[1], IMAGES[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(2, 2), (1, 1), (3, 1)])
def test_uniforms_of_another_shape_are_refused(shape):
    with pytest.raises(UsageError, match="one row of uniforms per image"):
        augment(IMAGES, torch.zeros(shape), Augmentation(flip=True))
