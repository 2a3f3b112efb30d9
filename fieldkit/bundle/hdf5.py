"""The one door to h5py: arrays by path to the bytes of an HDF5 file in memory, and back.

Reading walks link by link with the low-level interface and opens nothing that ``layout`` does not name.  All of a
file's violations are collected before any data is read; filters are undone by ``chunks``, never by libhdf5.
"""

from __future__ import annotations

import io
import itertools
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

# Read by libhdf5 when it is loaded: no filter or driver plugin is ever searched for.
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5fd, h5g, h5l, h5o, h5p, h5s, h5t, h5z

from fieldkit.bundle import chunks, documents, layout
from fieldkit.errors import DamagedBundle

# What h5py raises for a file that libhdf5 cannot make sense of.
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, LookupError, OverflowError, MemoryError)

_TYPES = {
    "uint8": h5t.STD_U8LE,
    "uint16": h5t.STD_U16LE,
    "int32": h5t.STD_I32LE,
    "int64": h5t.STD_I64LE,
    "float16": h5t.IEEE_F16LE,
    "float32": h5t.IEEE_F32LE,
}
_FILTERS = {h5z.FILTER_DEFLATE: "gzip", h5z.FILTER_SHUFFLE: "shuffle", h5z.FILTER_FLETCHER32: "fletcher32"}
# Below this many bytes a chunk's own bookkeeping outweighs what gzip saves.
_COMPACT = 128
_GZIP_LEVEL = 9

Deflate = Callable[[bytes], bytes]
"""Bytes to a zlib stream of them."""

__all__ = ["UNREADABLE", "Deflate", "deflate", "h5py", "pack", "unpack"]


def deflate(data: bytes) -> bytes:
    """The smallest zlib stream that zlib itself makes."""
    return zlib.compress(data, _GZIP_LEVEL)


def pack(parts: Mapping[str, np.ndarray], user_block: int, deflate: Deflate = deflate) -> bytes:
    """An HDF5 file that holds ``parts`` (arrays by path), without its user block, which the caller puts before it.

    The same parts give the same bytes: sorted, no times, one chunk per small array.
    """
    draft, final = io.BytesIO(), io.BytesIO()
    with _created(draft, user_block) as file:
        for folder in sorted({path[:cut] for path in parts for cut, sign in enumerate(path) if sign == "/" and cut}):
            h5g.create(file, folder.encode(), gcpl=_group_plan())
        for path in sorted(parts):
            _store(file, path, parts[path], deflate)
        # HDF5 keeps room for attributes in each header, 190 bytes a dataset, and drops it when an object is copied.
        with _created(final, user_block) as compact:
            for name in sorted(h5g.open(file, b"/")):
                h5o.copy(file, name, compact, name)
    return final.getvalue()[user_block:]


@contextmanager
def _created(buffer: io.BytesIO, user_block: int) -> Iterator[Any]:
    """A new HDF5 file that ``buffer`` holds once it is closed."""
    creation = h5p.create(h5p.FILE_CREATE)
    creation.set_userblock(user_block)
    creation.set_obj_track_times(False)
    access = h5p.create(h5p.FILE_ACCESS)
    # Not HDF5's own memory driver: the image it gives of an open file has a wrong checksum in 1.14.
    access.set_fileobj_driver(h5fd.fileobj_driver, buffer)
    # Of the versions that HDF5 1.10 reads: the first with an index for a single chunk, 3x smaller for small files.
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    file = h5f.create(b"bundle", h5f.ACC_TRUNC, creation, access)
    try:
        yield file
    finally:
        file.close()


@dataclass(frozen=True)
class Stored:
    """One dataset of a file: its values, and the bytes that they take there, compressed."""

    array: np.ndarray
    size: int


def unpack(data: bytes, where: object) -> dict[str, Stored]:
    """Everything that the HDF5 file in ``data`` (user block included) holds, by path.

    Raises DamagedBundle that lists everything which ``layout`` does not allow.
    """
    try:
        with _opened(data) as file:
            found = dict(_Walk(file, where).datasets())
            _check_declared(found, len(data), where)
            sizes = {path: dataset.get_storage_size() for path, dataset in found.items()}
            _check_stored(found, sizes, len(data), where)
            return {path: Stored(_load(dataset), sizes[path]) for path, dataset in found.items()}
    except UNREADABLE as error:
        # A KeyError's own text is its message in quotes.
        reason = error.args[0] if error.args else type(error).__name__
        raise DamagedBundle(f"HDF5 cannot be parsed: {reason}", where=where) from error


class _Walk:
    """A walk over hard links that opens only what the layout names."""

    def __init__(self, file: Any, where: object) -> None:
        self.file = file
        self.where = where
        self.faults: list[str] = []

    def datasets(self) -> Iterator[tuple[str, Any]]:
        """Every dataset by path; raises DamagedBundle if the walk met any fault."""
        found = list(self._group(h5g.open(self.file, b"/"), "/"))
        for path, dataset in found:
            self.faults += _dataset_faults(path, dataset)
        if self.faults:
            raise DamagedBundle("not the layout of a bundle: " + documents.listed(self.faults), where=self.where)
        yield from found

    def _group(self, group: Any, path: str) -> Iterator[tuple[str, Any]]:
        if h5a.get_num_attrs(group):
            self.faults.append(f"{path}: attributes are not part of a bundle")
        if group.get_num_objs() > layout.MAX_LINKS:
            self.faults.append(f"{path}: {group.get_num_objs()} members; expected at most {layout.MAX_LINKS}")
            return
        for name in group:
            member = f"{path.rstrip('/')}/{name.decode('utf-8', 'backslashreplace')}"
            if not (layout.is_group(member) or layout.entry(member)):
                self.faults.append(f"{member}: not part of a bundle")
            elif group.links.get_info(name).type != h5l.TYPE_HARD:
                self.faults.append(f"{member}: a soft or external link; expected a hard one")
            else:
                yield from self._member(h5o.open(group, name), member)

    def _member(self, found: Any, path: str) -> Iterator[tuple[str, Any]]:
        if h5o.get_info(found).rc != 1:
            self.faults.append(f"{path}: linked from more than one place")
        elif isinstance(found, h5g.GroupID) and layout.is_group(path):
            yield from self._group(found, path)
        elif isinstance(found, h5d.DatasetID) and layout.entry(path):
            yield path, found
        else:
            self.faults.append(f"{path}: found {type(found).__name__}; expected another kind of object")


def _dataset_faults(path: str, dataset: Any) -> list[str]:
    """What about a dataset's header the layout does not allow; its data is not touched."""
    faults = [f"{path}: attributes are not part of a bundle"] if h5a.get_num_attrs(dataset) else []
    space, kind, plan = dataset.get_space(), dataset.get_type(), dataset.get_create_plist()
    dtype = next((name for name, known in _TYPES.items() if kind.equal(known)), None)
    if dtype is None or kind.committed():
        return [*faults, f"{path}: found {kind}; expected {' or '.join(_TYPES)}, little-endian, not committed"]
    if space.get_simple_extent_type() != h5s.SIMPLE:
        return [*faults, f"{path}: not a plain array"]
    shape = space.get_simple_extent_dims()
    faults += layout.shape_faults(path, dtype, shape, np.dtype(dtype).itemsize)
    if space.get_simple_extent_dims(maxdims=True) != shape:
        faults.append(f"{path}: can grow; expected a fixed size")
    if plan.get_external_count() or plan.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS, h5d.CHUNKED):
        faults.append(f"{path}: external or virtual storage")
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    if len(filters) > len(set(filters) & set(_FILTERS)):
        faults.append(f"{path}: found filters {filters}; expected only {', '.join(layout.FILTERS)}, each at most once")
    if plan.get_layout() == h5d.CHUNKED and any(c > n for c, n in zip(plan.get_chunk(), shape, strict=True)):
        faults.append(f"{path}: chunks larger than the array")
    return faults


def _check_declared(datasets: Mapping[str, Any], file_size: int, where: object) -> None:
    declared = sum(_declared(dataset) for dataset in datasets.values())
    limit = layout.declared_limit(file_size)
    if declared > limit:
        raise DamagedBundle("the datasets declare too many bytes", where=where, found=declared, expected=f"<= {limit}")


def _declared(dataset: Any) -> int:
    """The bytes of a dataset's values."""
    return int(dataset.get_space().get_simple_extent_npoints() * dataset.get_type().get_size())


def _check_stored(datasets: Mapping[str, Any], sizes: Mapping[str, int], file_size: int, where: object) -> None:
    """What a file declares must be in it, once; libhdf5 would make up what is missing, and read twice what overlaps."""
    faults = (f"{path}: {fault}" for path, dataset in datasets.items() for fault in _storage_faults(dataset))
    found = documents.listed(faults)
    if not found and sum(sizes.values()) > file_size:
        found = f"the datasets take {sum(sizes.values())} bytes of a file of {file_size}"
    if found:
        raise DamagedBundle("not the storage of a bundle: " + found, where=where)


def _storage_faults(dataset: Any) -> Iterator[str]:
    declared, stored = _declared(dataset), dataset.get_storage_size()
    plan = dataset.get_create_plist()
    if plan.get_layout() != h5d.CHUNKED:
        if stored != declared:
            yield f"{stored} bytes are stored of {declared}"
        return
    chunk, shape = plan.get_chunk(), dataset.shape
    size = math.prod(chunk) * dataset.dtype.itemsize
    places = math.prod(-(-length // side) for length, side in zip(shape, chunk, strict=True))
    if places > layout.MAX_CHUNKS or dataset.get_num_chunks() != places:
        yield f"{dataset.get_num_chunks()} chunks are stored of {places}; expected all, at most {layout.MAX_CHUNKS}"
        return
    for place in _places(shape, chunk):
        found = dataset.get_chunk_info_by_coord(place)
        if found.filter_mask:
            yield f"chunk {place}: a filter was left out"
        # Else a few bytes would declare a large chunk, for which room is made before they are inflated.
        if not size <= found.size * chunks.MAX_DEFLATE_RATIO or found.size > 2 * size + 1024:
            yield f"chunk {place}: {found.size} bytes are stored of {size}"


def _places(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The first element's place of every chunk of an array."""
    return itertools.product(*(range(0, length, side) for length, side in zip(shape, chunk, strict=True)))


@contextmanager
def _opened(data: bytes) -> Iterator[Any]:
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=0)
    access.set_file_image(data)
    access.set_fclose_degree(h5f.CLOSE_STRONG)
    file = h5f.open(b"bundle", h5f.ACC_RDONLY, access)
    try:
        yield file
    finally:
        file.close()


def _load(dataset: Any) -> np.ndarray:
    array, plan = np.empty(dataset.shape, dataset.dtype), dataset.get_create_plist()
    if plan.get_layout() != h5d.CHUNKED:
        dataset.read(h5s.ALL, h5s.ALL, array)
        return array
    filters = [_FILTERS[plan.get_filter(index)[0]] for index in range(plan.get_nfilters())]
    chunk, little = plan.get_chunk(), array.dtype.newbyteorder("<")
    size = math.prod(chunk) * array.itemsize
    for place in _places(array.shape, chunk):
        values = chunks.restore(dataset.read_direct_chunk(place)[1], filters, size, array.itemsize)
        target = array[tuple(slice(start, start + side) for start, side in zip(place, chunk, strict=True))]
        # What a chunk at the edge holds beyond the array is nobody's.
        inside = tuple(map(slice, target.shape))
        target[...] = np.frombuffer(values, little).reshape(chunk)[inside]
    return array


def _store(file: Any, path: str, array: np.ndarray, deflate: Deflate) -> None:
    array = np.ascontiguousarray(array)
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_obj_track_times(False)
    plan.set_fill_time(h5d.FILL_TIME_NEVER)
    rows = chunks.rows_of_chunk(array)
    if array.nbytes <= _COMPACT:
        plan.set_layout(h5d.COMPACT)
    else:
        plan.set_chunk((rows, *array.shape[1:]))
        if array.itemsize > 1:
            plan.set_shuffle()
        plan.set_deflate(_GZIP_LEVEL)
    dataset = h5d.create(file, path.encode(), _TYPES[array.dtype.name], h5s.create_simple(array.shape), plan)
    if array.nbytes <= _COMPACT:
        dataset.write(h5s.ALL, h5s.ALL, array)
        return
    for start in range(0, len(array), rows):
        chunk = chunks.whole_chunk(array[start : start + rows], rows)
        dataset.write_direct_chunk((start, *(0,) * (array.ndim - 1)), deflate(chunks.shuffled(chunk)))


def _group_plan() -> Any:
    plan = h5p.create(h5p.GROUP_CREATE)
    plan.set_obj_track_times(False)
    return plan
