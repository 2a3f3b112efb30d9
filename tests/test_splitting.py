"""The training set is cut at random, evenly over its classes, into parts that share nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fieldkit.bundle.samples import Samples
from fieldkit.hq.splitting import held_out_size, split

pytestmark = pytest.mark.hq


def numbered(count: int, class_count: int) -> Samples:
    """Images that are their own positions."""
    return Samples(np.arange(count, dtype=np.uint16).reshape(-1, 1, 1, 1), np.arange(count) % class_count)


@given(class_count=st.integers(2, 7), per_class=st.integers(20, 30), probe=st.integers(0, 20), seed=st.integers(0, 9))
def test_parts_share_nothing_and_cover_all(class_count: int, per_class: int, probe: int, seed: int) -> None:
    train = numbered(class_count * per_class, class_count)
    parts = split(train, class_count, probe, seed)
    found = [parts.real, parts.held_out] + ([] if parts.probe is None else [parts.probe])
    positions = np.concatenate([each.images[:].ravel() for each in found])
    assert sorted(positions) == list(range(len(train)))
    assert (parts.probe is None) == (probe == 0)
    assert len(parts.held_out) == held_out_size(len(train), class_count)
    for each in found[1:]:
        counts = np.bincount(each.targets, minlength=class_count)
        assert counts.max() - counts.min() <= 1


def test_the_seed_decides_the_cut() -> None:
    train = numbered(60, 3)
    first, again, other = (split(train, 3, 6, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.held_out.images[:], again.held_out.images[:])
    assert (first.held_out.images[:] != other.held_out.images[:]).any()


@pytest.mark.parametrize(("count", "classes", "size"), [(60_000, 10, 5000), (1000, 10, 100), (12, 3, 3)])
def test_size_of_the_held_out_split(count: int, classes: int, size: int) -> None:
    assert held_out_size(count, classes) == size
