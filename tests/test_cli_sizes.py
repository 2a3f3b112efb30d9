"""Sizes as people write and read them."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldkit.cli.sizes import SIZE, spelt


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("300000", 300_000),
        ("1B", 1),
        ("256KB", 256_000),
        ("256kb", 256_000),
        ("256KiB", 262_144),
        ("1.5 MiB", 1_572_864),
        (" 2 GB ", 2_000_000_000),
    ],
)
def test_sizes_are_read_in_powers_of_ten_and_of_two(text: str, count: int) -> None:
    assert SIZE.convert(text, None, None) == count


@pytest.mark.parametrize("text", ["", "0", "0.4B", "-5", "KB", "5 bananas", "1,5MB", "1e6", "5KBB", "٣MB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size, such as 300000, 256KB"):
        SIZE.convert(text, None, None)


@given(st.integers(1, 10**12))
def test_what_is_spelt_is_read_back_within_its_digits(count: int) -> None:
    assert SIZE.convert(spelt(count), None, None) == pytest.approx(count, rel=0.006, abs=0.5)
