"""Images stored small come to a network's size as the format's page says: bilinear, centres at halves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from fieldkit.bundle import layout, write_bundle
from fieldkit.bundle.enlarging import enlarge
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.reader import parse_bundle
from fieldkit.errors import UsageError
from fieldkit.field.inspection.sheet import contact_sheet

sides = st.integers(1, 9)


def drawn(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).normal(size=(2, 3, height, width)).astype(np.float32)


@given(sides, sides, st.integers(0, 9), st.integers(0, 9))
def test_equal_to_torchs_interpolation(height: int, width: int, taller: int, wider: int) -> None:
    torch = pytest.importorskip("torch")
    images, size = drawn(height, width), (height + taller, width + wider)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(images), size=size, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarge(images, *size), expected.numpy(), atol=1e-5)


def test_a_row_by_hand() -> None:
    row = np.array([[[[0.0, 4.0]]]], np.float32)
    np.testing.assert_allclose(enlarge(row, 1, 4), [[[[0.0, 1.0, 3.0, 4.0]]]])


@given(sides, sides)
def test_an_image_of_the_right_size_stays(height: int, width: int) -> None:
    images = drawn(height, width)
    assert enlarge(images, height, width) is images


def test_a_bundle_of_small_images_trains_at_the_inputs_size() -> None:
    bundle = tiny.bundle()
    small = Pixels.encode(drawn(2, 2)[:, :2], "uint8")
    written = write_bundle(replace(bundle, images=small, labels=bundle.labels[:2]))
    read = parse_bundle(written, "small")
    assert read.images.codes.shape == (2, 2, 2, 2)
    assert read.training_set().images.shape == (2, *tiny.SHAPE)
    assert read.training_set().images.dtype == np.float32
    assert contact_sheet(read).size[0] > 0


@pytest.mark.parametrize("shape", [(3, 2, 5, 3), (3, 2, 4, 4), (3, 1, 2, 2)])
def test_images_larger_than_the_input_or_of_other_bands_are_refused(shape: tuple[int, ...]) -> None:
    bundle = tiny.bundle()
    with pytest.raises(UsageError, match="distilled images: found"):
        write_bundle(replace(bundle, images=Pixels(np.zeros(shape, np.uint8), *[np.ones(2, np.float32)] * 2)))


def test_an_image_that_grows_beyond_all_bounds_is_refused() -> None:
    bundle = tiny.bundle()
    manifest = replace(bundle.manifest, input_shape=(2, 30000, 30000))
    small = Pixels(np.zeros((3, 2, 1, 1), np.uint8), *[np.ones(2, np.float32)] * 2)
    with pytest.raises(UsageError, match=f"at the size of the input; expected at most {layout.IMAGES.limit}"):
        write_bundle(replace(bundle, manifest=manifest, images=small, probe=None))
