"""Types that hold references, other types or text, and spaces that are no arrays of a fixed size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fieldkit.bundle.hdf5 import h5py, h5s, h5t
from hostile.making import Case, replaced, sealed


def _committed(file: Any) -> None:
    file["/kind"] = np.dtype("uint8")
    del file["/card"]
    file.create_dataset("/card", (5,), file["/kind"])
    del file["/kind"]


def _low(kind: Any) -> Callable[[Any], None]:
    """A card of a type that h5py has no word for."""

    def build(file: Any) -> None:
        del file["/card"]
        h5py.h5d.create(file.id, b"/card", kind, h5s.create_simple((4,)))

    return build


def _region(file: Any) -> None:
    del file["/card"]
    file.create_dataset("/card", (1,), h5py.regionref_dtype)[0] = file["/manifest"].regionref[:2]


TRICKS: dict[str, tuple[Callable[[Any], object], str]] = {
    "committed": (_committed, "not committed"),
    "text": (replaced("/card", data="text"), "/card: found"),
    "vlen": (replaced("/card", shape=(1,), dtype=h5py.vlen_dtype("uint8")), "/card: found"),
    "vlen text": (replaced("/card", data=["a", "b"], dtype=h5py.string_dtype()), "/card: found"),
    "reference": (replaced("/card", shape=(1,), dtype=h5py.ref_dtype), "/card: found"),
    "region reference": (_region, "/card: found"),
    "compound": (replaced("/card", shape=(1,), dtype=[("a", "u1")]), "/card: found"),
    "enumeration": (replaced("/card", shape=(4,), dtype=h5py.enum_dtype({"a": 1})), "/card: found"),
    "opaque": (replaced("/card", shape=(4,), dtype="V1"), "/card: found"),
    "array type": (_low(h5t.array_create(h5t.STD_U8LE, (2**16,))), "/card: found"),
    "bit field": (_low(h5t.STD_B8LE), "/card: found"),
    "time": (_low(h5t.UNIX_D32LE), "/card: found"),
    "big-endian": (replaced("/distilled/scale", shape=(2,), dtype=">f4"), "little-endian"),
    "signed bytes": (replaced("/card", shape=(4,), dtype="int8"), "/card: found"),
    "dtype": (replaced("/distilled/images", shape=(3, 2, 4, 3), dtype="int32"), "found dtype int32"),
    "rank": (replaced("/distilled/images", shape=(3, 24), dtype="uint8"), "found rank 2"),
    "rank of thirty-two": (replaced("/card", shape=(1,) * 32, dtype="uint8"), "found rank 32"),
    "scalar": (replaced("/card", data=np.uint8(1)), "not a plain array"),
    "null": (replaced("/card", data=h5py.Empty("uint8")), "not a plain array"),
    "empty": (replaced("/card", shape=(0,), dtype="uint8"), "/card: empty"),
    "growing": (replaced("/card", shape=(5,), maxshape=(None,), dtype="uint8"), "can grow"),
}


def cases() -> dict[str, Case]:
    return {name: Case(sealed(build), reason) for name, (build, reason) in TRICKS.items()}
