"""Storage that is elsewhere, missing or shared; filters that are not allowed; a little that declares a lot."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

from fieldkit.bundle.hdf5 import h5d, h5p, h5py, h5s, h5t
from hostile.making import Case, replaced, sealed

_MIB = 2**20


def _virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((5,), "uint8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (5,))
    del file["/card"]
    file.create_virtual_dataset("/card", layout)


def _chunk(stored: bytes, size: int = 4096, mask: int = 0) -> Callable[[Any], None]:
    """A card of one gzip chunk of ``size`` bytes, of which the file holds ``stored``."""

    def build(file: Any) -> None:
        replaced("/card", shape=(size,), chunks=(size,), dtype="uint8", compression=9)(file)
        file["/card"].id.write_direct_chunk((0,), stored, mask)

    return build


def _zeros(mebibytes: int) -> bytes:
    """A zlib stream of so many MiB of zeros, made without them."""
    stream = zlib.compressobj(9)
    return b"".join(stream.compress(bytes(_MIB)) for _ in range(mebibytes)) + stream.flush()


def _partly(file: Any) -> None:
    replaced("/card", shape=(4096,), chunks=(1024,), dtype="uint8", compression=9)(file)
    file["/card"][:1024] = 32


def _unallocated(file: Any) -> None:
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_alloc_time(h5d.ALLOC_TIME_LATE)
    del file["/card"]
    h5d.create(file.id, b"/card", h5t.STD_U8LE, h5s.create_simple((4096,)), plan)


def _many_chunks(file: Any) -> None:
    replaced("/card", shape=(5000,), chunks=(1,), dtype="uint8", compression=1)(file)
    file["/card"][:] = 32


TRICKS: dict[str, tuple[Callable[[Any], object], str]] = {
    "virtual": (_virtual, "virtual storage"),
    "external storage": (
        replaced("/card", shape=(5,), dtype="uint8", external=[("/etc/passwd", 0, 5)]),
        "external or virtual storage",
    ),
    "filter lzf": (replaced("/card", shape=(5,), dtype="uint8", compression="lzf"), "found filters"),
    "filter scale-offset": (replaced("/card", shape=(5,), dtype="uint8", scaleoffset=4), "found filters"),
    "too large": (replaced("/card", shape=(2**60,), dtype="uint8"), "expected at most"),
    "chunks larger than the array": (
        replaced("/card", shape=(5,), maxshape=(50,), chunks=(20,), dtype="uint8"),
        "chunks larger",
    ),
    "nothing allocated": (_unallocated, "0 bytes are stored of 4096"),
    "chunks missing": (_partly, "1 chunks are stored of 4"),
    "five thousand chunks": (_many_chunks, "at most 4096"),
    "chunk that inflates to a GiB": (_chunk(_zeros(1024)), "bytes are stored of 4096"),
    "chunk that inflates to 4 MiB": (_chunk(_zeros(4), 8 * 1024), "inflates to more than 8192"),
    "chunk that inflates to less": (_chunk(zlib.compress(b" " * 100)), "inflates to 100 bytes"),
    "chunk that ends early": (_chunk(zlib.compress(b" " * 4096)[:-3]), "chunk that inflates to"),
    "chunk of noise": (_chunk(b"no zlib stream at all"), "cannot be inflated"),
    "chunk with bytes behind": (_chunk(zlib.compress(b" " * 4096) + b"more"), "chunk that inflates to"),
    "chunk without its filter": (_chunk(b" " * 4096, mask=1), "a filter was left out"),
    "chunk of 16 MiB in 20 bytes": (_chunk(b"x" * 20, 16 * _MIB), "20 bytes are stored of"),
}


def _bomb(file: Any) -> None:
    """68 GB of weights in a file of little more than a kilobyte."""
    file.create_dataset("/recipes/net/weights", (2**35,), "float16", chunks=(2**20,), compression=9)


def cases() -> dict[str, Case]:
    found = {name: Case(sealed(build), reason) for name, (build, reason) in TRICKS.items()}
    found["68 GB in a kilobyte"] = Case(sealed(_bomb, {}, libver="latest"), "68719476736 bytes; expected at most")
    declared = replaced("/recipes/net/weights", shape=(2**27,), dtype="float16", compression=9)
    found["more than the file may declare"] = Case(sealed(declared), "too many bytes")
    return found
