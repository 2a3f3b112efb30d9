"""Initial weights are the same on every machine, and follow their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldkit.bundle.recipe import Initial, Tensor
from fieldkit.bundle.weights import draw, halves, initial_weights, uniforms
from fieldkit.errors import IncompatibleBundle

seeds = st.integers(0, 2**64 - 1)


def test_golden_values() -> None:
    # Philox-4x64 with key (7, 0): a change here would change every bundle with fixed initial weights.
    expected = [0.8720734548204873, 0.29536538151378355, 0.4200976785072422]
    assert uniforms(7, 0, 3).tolist() == expected


def philox(key: tuple[int, int], counter: int) -> list[int]:
    """Philox4x64-10 in plain Python, from Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"."""
    mask, (low, high) = 2**64 - 1, key
    words = [counter, 0, 0, 0]
    for _ in range(10):
        first, second = words[0] * 0xD2E7470EE14C6C93, words[2] * 0xCA5A826395121157
        words = [second >> 64 ^ words[1] ^ low, second & mask, first >> 64 ^ words[3] ^ high, first & mask]
        low, high = low + 0x9E3779B97F4A7C15 & mask, high + 0xBB67AE8584CAA73B & mask
    return words


@given(seeds, st.integers(0, 2**40))
def test_uniforms_are_philox_as_published(seed: int, stream: int) -> None:
    expected = [(word >> 11) * 2.0**-53 for counter in (1, 2) for word in philox((seed, stream), counter)]
    assert uniforms(seed, stream, 8).tolist() == expected


@given(seeds, st.integers(0, 2**40), st.integers(0, 17))
def test_halves_are_philox_words_cut_in_two(seed: int, stream: int, count: int) -> None:
    words = [word for counter in range(1, 4) for word in philox((seed, stream), counter)]
    parts = [part for word in words for part in (word & (2**32 - 1), word >> 32)]
    found = halves(seed, stream, count)
    assert found.dtype == np.float32
    assert found.tolist() == [(part >> 8) * 2.0**-24 for part in parts[:count]]


@given(seeds, st.integers(0, 1000), st.integers(0, 40), st.integers(0, 40))
def test_a_longer_draw_starts_like_a_shorter_one(seed: int, stream: int, short: int, more: int) -> None:
    longer = uniforms(seed, stream, short + more)
    assert np.array_equal(longer[:short], uniforms(seed, stream, short))
    assert ((longer >= 0) & (longer < 1)).all()


def test_laws() -> None:
    normal = draw(Tensor("a", (100, 100), ("normal", 0.5)), 3, 0)
    uniform = draw(Tensor("b", (100, 100), ("uniform", 0.5)), 3, 1)
    constant = draw(Tensor("c", (4,), ("constant", 1.0)), 3, 2)
    assert normal.dtype == uniform.dtype == constant.dtype == np.float32
    assert normal.std() == pytest.approx(0.5, rel=0.03)
    assert normal.mean() == pytest.approx(0.0, abs=0.02)
    assert np.abs(uniform).max() <= 0.5
    assert uniform.std() == pytest.approx(0.5 / 3**0.5, rel=0.03)
    assert constant.tolist() == [1.0] * 4


def test_who_decides_the_first_weights() -> None:
    tensors = [Tensor("a", (3,), ("normal", 1.0)), Tensor("b", (2,), ("normal", 1.0))]
    fixed = [initial_weights(tensors, Initial(seed=5), seed)["b"] for seed in (0, 1)]
    drawn = [initial_weights(tensors, Initial(), seed)["b"] for seed in (0, 5)]
    assert np.array_equal(fixed[0], fixed[1])
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(fixed[0], drawn[1])
    stored = {each.name: np.ones(each.shape, np.float16) for each in tensors}
    assert initial_weights(tensors, Initial(weights=stored), 9)["a"].tolist() == [1.0] * 3


def test_an_unknown_generator_is_refused() -> None:
    with pytest.raises(IncompatibleBundle, match="philox-1"):
        initial_weights([], Initial(seed=1, generator="dice"), 0)
