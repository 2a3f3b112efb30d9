"""Balanced replay: every group has its share of every step, and every sample of a group its turn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle.samples import Samples
from fieldkit.errors import UsageError
from fieldkit.field.engine.replay import Balanced, Joined, balanced, interleaved


def feed(sizes: list[int], shares: list[int] | None = None, batch: int = 12, seed: int = 1) -> Balanced:
    """A feed over groups of these sizes, whose samples stand one group after the other."""
    ends = np.cumsum(sizes)
    groups = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    feeds = {
        "images": np.zeros((batch, 1, 2, 2), np.float32),
        "targets": np.zeros((batch, 2), np.float32),
        "weights": np.zeros(batch, np.float32),
    }
    samples = Samples(np.zeros((int(ends[-1]), 1, 2, 2), np.float32), np.zeros(int(ends[-1]), np.int64))
    made = balanced(groups, shares)(feeds, samples, seed, "test")
    assert isinstance(made, Balanced)
    return made


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 3)), min_size=1, max_size=5),
    st.integers(1, 16),
    st.integers(0, 30),
)
def test_over_any_steps_each_group_has_its_share_to_one_sample(
    groups: list[tuple[int, int]], batch: int, steps: int
) -> None:
    sizes, shares = [each[0] for each in groups], [each[1] for each in groups]
    made = feed(sizes, shares, batch)
    row = np.concatenate([np.zeros(0, np.int64), *(made.positions(step) for step in range(steps))])
    group = np.searchsorted(np.cumsum(sizes), row, side="right")
    for index, share in enumerate(shares):
        exact = len(row) * share / sum(shares)
        assert abs((group == index).sum() - exact) <= max(shares)
        counts = np.bincount(row[group == index], minlength=sum(sizes))[sum(sizes[:index]) : sum(sizes[: index + 1])]
        # Samples of a group take turns.
        assert counts.max() - counts.min() <= 1


def test_a_step_is_the_same_whether_or_not_those_before_were_made() -> None:
    one, other = feed([3, 40, 7]), feed([3, 40, 7])
    every = [one.positions(step) for step in range(9)]
    assert np.array_equal(other.positions(8), every[8])
    assert not np.array_equal(feed([3, 40, 7], seed=2).positions(8), every[8])


def test_orders_of_groups_differ() -> None:
    row = np.concatenate([feed([50, 50], batch=50).positions(step) for step in range(2)])
    first, second = row[row < 50], row[row >= 50] - 50
    assert sorted(first) == sorted(second) == list(range(50))
    assert first.tolist() != second.tolist()


def test_a_balanced_step_pads_nothing() -> None:
    made = feed([1, 2], batch=12)
    made.fill(0)
    assert made.feeds["weights"].tolist() == [1.0] * 12


def test_shares_are_spread_evenly() -> None:
    assert interleaved([1, 1, 1]) == [0, 1, 2]
    assert interleaved([2, 1]) == [0, 1, 0]
    assert interleaved([3, 1]) == [0, 0, 1, 0]


def test_a_group_without_samples_is_refused() -> None:
    with pytest.raises(UsageError, match="a group without samples"):
        balanced([np.arange(3), np.arange(0)])


def test_joined_rows_are_those_of_both_arrays() -> None:
    first = np.arange(12, dtype=np.uint8).reshape(3, 4)
    second = np.arange(8, dtype=np.float32).reshape(2, 4) + 0.5
    whole, both = np.concatenate([first.astype(np.float32), second]), Joined.of(first, second)
    assert (both.shape, both.ndim, len(both), both.dtype.name) == ((5, 4), 2, 5, "float32")
    for index in (np.array([4, 0, 3, 3]), np.array([], np.int64), slice(1, 4), slice(None), slice(4, 9)):
        assert np.array_equal(both[index], whole[index])
        assert both[index].dtype == np.float32
    targets = np.zeros(5, np.int64)
    assert Samples(both, targets).digest() == Samples(whole, targets).digest()
