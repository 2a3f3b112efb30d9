"""Chunks are undone as HDF5 undoes them, and no further than they were declared."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle.chunks import fletcher32, restore, shuffled
from fieldkit.bundle.hdf5 import h5py


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_filters_are_those_of_hdf5(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "uint16", "float32", "int64"]))
    count = data.draw(st.integers(1, 300))
    values = np.frombuffer(data.draw(st.binary(min_size=8 * count, max_size=8 * count)), dtype)[:count]
    how = {name: data.draw(st.booleans()) for name in ("shuffle", "fletcher32")}
    how |= {"compression": 4} if data.draw(st.booleans()) else {}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        made = file.create_dataset("x", data=values, chunks=(count,), **how)
        plan, (_, stored) = made.id.get_create_plist(), made.id.read_direct_chunk((0,))
        known = {1: "gzip", 2: "shuffle", 3: "fletcher32"}
        filters = [known[plan.get_filter(index)[0]] for index in range(plan.get_nfilters())]
    assert restore(stored, filters, values.nbytes, values.itemsize) == values.tobytes()
    if "fletcher32" in filters:
        with pytest.raises(ValueError, match="chunk"):
            restore(bytes([stored[0] ^ 1]) + stored[1:], filters, values.nbytes, values.itemsize)


def test_the_checksum_of_known_bytes() -> None:
    # Words 0x6162 and 0x6364 sum to 0xc4c6; the sum of sums is 2 * 0x6162 + 0x6364 = 0x12628, which is 0x2629.
    assert fletcher32(b"abcd") == 0x2629C4C6


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (zlib.compress(bytes(101)), "more than 100"),
        (zlib.compress(bytes(2**26)), "more than 100"),
        (zlib.compress(bytes(99)), "inflates to 99"),
        (zlib.compress(bytes(100)) + b"x", "inflates to 100"),
        (zlib.compress(bytes(100))[:-1], "inflates to 100"),
        (b"noise", "cannot be inflated"),
    ],
)
def test_a_chunk_of_another_size_is_refused(stored: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        restore(stored, ["gzip"], 100, 1)


def test_without_filters_a_chunk_has_its_size() -> None:
    with pytest.raises(ValueError, match="a chunk of 3 bytes where 4 were declared"):
        restore(b"abc", [], 4, 1)


def test_shuffling_undoes_itself() -> None:
    values = np.arange(50, dtype=np.float32)
    assert restore(shuffled(values), ["shuffle"], 200, 4) == values.tobytes()
