"""The pixel codec loses at most half a code, whatever the images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fieldkit.bundle.pixels import Pixels
from fieldkit.errors import UsageError

images = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=4, max_dims=4, max_side=4),
    elements=st.floats(-70000, 70000, width=32),
)


@given(images, st.sampled_from(["uint8", "uint16"]), st.none() | st.integers(2, 256))
def test_error_is_at_most_half_a_code(images: np.ndarray, dtype: str, levels: int | None) -> None:
    pixels = Pixels.encode(images, dtype, levels)
    assert levels is None or pixels.codes.max() < levels
    assert pixels.codes.dtype == dtype
    assert pixels.scale.dtype == pixels.offset.dtype == np.float32
    # float32 itself rounds counts of this size by up to 2**-7.
    slack = np.abs(images).max() * 4 * np.finfo(np.float32).eps
    error = np.abs(pixels.decode().astype(np.float64) - images)
    assert (error <= pixels.scale[:, None, None] * 0.5 * 1.001 + slack).all()


@given(images)
def test_encoding_is_repeatable_and_scales_are_positive(images: np.ndarray) -> None:
    first, second = Pixels.encode(images, "uint8"), Pixels.encode(images.copy(), "uint8")
    assert first.codes.tobytes() == second.codes.tobytes()
    assert (first.scale > 0).all()


@given(arrays.arrays(np.uint8, (2, 1, 3, 3)))
def test_native_counts_survive(counts: np.ndarray) -> None:
    decoded = Pixels.encode(counts.astype(np.float32), "uint8").decode()
    assert np.array_equal(np.rint(decoded), counts)


def test_bands_are_scaled_apart() -> None:
    images = np.stack([np.linspace(0, 1, 16), np.linspace(0, 60000, 16)]).reshape(1, 2, 4, 4).astype(np.float32)
    pixels = Pixels.encode(images, "uint8")
    assert pixels.scale[0] == pytest.approx(1 / 255)
    assert pixels.scale[1] == pytest.approx(60000 / 255)


def test_a_constant_band_is_exact() -> None:
    images = np.full((2, 1, 2, 2), 37.25, np.float32)
    assert np.array_equal(Pixels.encode(images, "uint8").decode(), images)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_must_be_finite(value: float) -> None:
    with pytest.raises(UsageError, match="finite"):
        Pixels.encode(np.full((1, 1, 2, 2), value, np.float32), "uint8")


def test_pixels_are_stored_as_two_dtypes_only() -> None:
    with pytest.raises(UsageError, match="uint8 or uint16"):
        Pixels.encode(np.zeros((1, 1, 2, 2), np.float32), "int32")


@pytest.mark.parametrize("levels", [-1, 0, 1, 257])
def test_levels_must_fit(levels: int) -> None:
    with pytest.raises(UsageError, match="2 to 256"):
        Pixels.encode(np.zeros((1, 1, 2, 2), np.float32), "uint8", levels)
