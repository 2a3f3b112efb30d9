"""A header and arrays as bytes: what goes in comes out, and nothing else is taken."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn

from fieldkit.bundle import documents
from fieldkit.errors import DamagedBundle
from fieldkit.field.learning import container
from fieldkit.field.learning.container import DTYPES, HEAD, pack, unpack

MAGIC = b"fktests\x01"
arrays = st.dictionaries(
    st.text("abc/0", min_size=1, max_size=6),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: drawn.arrays(dtype, drawn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=4,
)


@settings(max_examples=100)
@given(arrays, st.dictionaries(st.text(max_size=4), st.integers(-5, 5), max_size=3))
def test_what_goes_in_comes_out(held: dict[str, np.ndarray], about: dict[str, int]) -> None:
    content = pack(MAGIC, about, held)
    told, found = unpack(content, MAGIC, "bytes")
    assert told == about
    assert list(found) == list(held)
    for name, values in held.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes()
    assert pack(MAGIC, told, found) == content


def test_every_changed_missing_or_added_byte_is_noticed() -> None:
    content = pack(MAGIC, {"name": "x"}, {"a": np.arange(3, dtype=np.uint8)})
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(DamagedBundle):
            unpack(bytes(changed), MAGIC, "bytes")
        with pytest.raises(DamagedBundle):
            unpack(content[:place], MAGIC, "bytes")
    with pytest.raises(DamagedBundle):
        unpack(content + b"\0", MAGIC, "bytes")
    with pytest.raises(DamagedBundle, match="another kind or version"):
        unpack(content, b"fktests\x02", "bytes")


def sealed(header: bytes, values: bytes) -> bytes:
    """Bytes with a right checksum, whatever is in them."""
    content = len(header).to_bytes(8, "little") + header + values
    return MAGIC + hashlib.sha256(content).digest() + content


@pytest.mark.parametrize(
    ("listed", "values", "said"),
    [
        ([{"name": "a", "dtype": "uint8", "shape": [4]}], b"123", "does not fit"),
        ([{"name": "a", "dtype": "uint8", "shape": [2]}], b"123", "after the last"),
        ([{"name": "a", "dtype": "uint8", "shape": [-1]}], b"", "does not fit"),
        ([{"name": "a", "dtype": "uint8", "shape": [1 << 60, 1 << 60]}], b"", "does not fit"),
        ([{"name": "a", "dtype": "uint8", "shape": [1]}] * 2, b"12", "does not fit"),
        ([{"name": "a", "dtype": "object", "shape": [1]}], b"12345678", "dtype"),
        ([{"name": "a", "dtype": "uint8", "shape": [1], "more": 1}], b"1", "unknown key"),
    ],
)
def test_a_header_that_lies_is_refused(listed: list[object], values: bytes, said: str) -> None:
    header = documents.encode({"arrays": listed, "about": {}})
    with pytest.raises(DamagedBundle, match=said):
        unpack(sealed(header, values), MAGIC, "bytes")


@pytest.mark.parametrize("header", [b"", b"{}", b"[]", b'{"arrays":[],"about":{},"about":{}}', b"\xff"])
def test_a_header_of_another_form_is_refused(header: bytes) -> None:
    with pytest.raises(DamagedBundle):
        unpack(sealed(header, b""), MAGIC, "bytes")


def test_a_length_beyond_the_end_is_refused() -> None:
    content = (1 << 62).to_bytes(8, "little") + b"{}"
    with pytest.raises(DamagedBundle):
        unpack(MAGIC + hashlib.sha256(content).digest() + content, MAGIC, "bytes")
    assert HEAD == 48
    assert len(MAGIC) == container.MAGIC
