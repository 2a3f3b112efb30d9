"""The ways in which a device's samples are seen: each against what it should do to images whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle.recipe import Augmentation
from fieldkit.field.adaptation.views import softened, turned, views


def ramp(height: int, width: int, across: float, down: float) -> np.ndarray:
    """uint16 [1, 1, h, w], which rises by so much for each pixel."""
    y, x = np.mgrid[:height, :width]
    return np.rint(20_000 + across * (x - (width - 1) / 2) + down * (y - (height - 1) / 2)).astype(np.uint16)[
        None, None
    ]


@given(st.integers(9, 20), st.integers(9, 20), st.floats(-40, 40), st.integers(-300, 300), st.integers(-300, 300))
@settings(max_examples=40, deadline=None)
def test_a_plane_that_is_turned_is_the_plane_of_the_turned_slope(
    height: int, width: int, degrees: float, across: int, down: int
) -> None:
    found = turned(ramp(height, width, across, down), degrees)
    angle = np.radians(degrees)
    # Anticlockwise on an image whose rows run down.
    slope = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    middle = (slice(None), slice(None), slice(height // 2 - 1, height // 2 + 2), slice(width // 2 - 1, width // 2 + 2))
    assert np.allclose(found[middle], ramp(height, width, *slope)[middle], atol=2)


def test_a_quarter_turn_is_exact_and_a_whole_one_changes_nothing() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 7, 7), np.uint8)
    assert np.array_equal(turned(images, 90), np.rot90(images, axes=(2, 3)))
    assert np.array_equal(turned(images, 360), images)


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.5])
def test_softening_spreads_a_point_as_a_gaussian_does(spread: float) -> None:
    image = np.zeros((1, 1, 31, 33), np.uint16)
    image[0, 0, 15, 16] = 60_000
    found = softened(image, spread).astype(np.float64)[0, 0]
    y, x = np.mgrid[-15:16, -16:17]
    expected = np.exp(-0.5 * (y**2 + x**2) / spread**2)
    assert np.allclose(found, 60_000 * expected / expected.sum(), atol=60_000 * 0.005)
    flat = np.full((2, 1, 5, 4), 201, np.uint8)
    assert np.array_equal(softened(flat, spread), flat)


def test_which_views_there_are_follows_from_recipe_size_and_user() -> None:
    small, large = (np.random.default_rng(0).integers(0, 256, (2, 1, side, side), np.uint8) for side in (8, 64))
    plain, turning = Augmentation(), Augmentation(rotate=10)
    assert [len(list(views(small, each, False))) for each in (plain, turning)] == [1, 3]
    assert [len(list(views(large, each, False))) for each in (plain, turning)] == [2, 4]
    assert (
        len(list(views(large, turning, True)))
        == len(list(views(large, Augmentation(rotate=10, flip=True), False)))
        == 6
    )
    mirrored = list(views(small, plain, True))
    assert np.array_equal(mirrored[0], small)
    assert np.array_equal(mirrored[1], small[..., ::-1])
    assert all(each.dtype == np.uint8 and each.shape == large.shape for each in views(large, turning, True))
