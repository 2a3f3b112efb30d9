"""Valid bundles and programs, changed so that they still look like ones: what a fuzzer of their readers feeds.

HDF5: bytes of the structures that libhdf5 walks (superblock, object headers, B-trees, heaps) more often than others,
with their checksums made right again, in files of the oldest and the newest form.  JSON: values and keys.  ONNX: fields
of nested messages.  All randomness comes from the ``random.Random`` that is handed in.
"""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fieldkit.bundle import hdf5
from fieldkit.bundle.seal import USER_BLOCK
from fieldkit.errors import ProgramError
from fieldkit.field.programs import protobuf
from fieldkit.field.programs.program import ALLOWED_OPERATORS

MARKS = (b"OHDR", b"OCHK", b"TREE", b"HEAP", b"SNOD", b"FAHD", b"FADB", b"BTHD", b"BTLF", b"FRHP", b"\x89HDF")
NUMBERS = (0, 1, 2, 7, 8, 127, 128, 255, 256, 4096, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
DOCUMENTS = ("/manifest", "/card", "/provenance", "/components", "/recipe")
# Nested messages of onnx.proto by the message they stand in and their field.
NESTED = {
    ("model", 7): "graph",
    ("model", 8): "opset",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("graph", 11): "value",
    ("graph", 12): "value",
    ("node", 5): "attribute",
    ("attribute", 5): "tensor",
    ("value", 2): "type",
    ("type", 1): "tensor type",
    ("tensor type", 2): "shape",
    ("shape", 1): "dim",
}

Field = tuple[int, "int | bytes"]


def forms(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The payload of the same bundle in different forms of HDF5, by a name for each."""
    return {
        "fieldkit": hdf5.pack(arrays, USER_BLOCK),
        "oldest": _written(arrays, "earliest", {}),
        "oldest, chunks": _written(arrays, "earliest", {"chunks": True, "compression": 6, "fletcher32": True}),
        "newest, chunks": _written(arrays, "v110", {"chunks": True, "compression": 6, "shuffle": True}),
    }


def packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Datasets as HDF5 writes them without being told how, whatever they are."""
    return _written(arrays, "v110", {})


def _written(arrays: Mapping[str, np.ndarray], version: str, storage: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with hdf5.h5py.File(buffer, "w", userblock_size=USER_BLOCK, libver=(version, "v110")) as file:
        for path, array in arrays.items():
            chunks = tuple(max(1, -(-length // 2)) for length in array.shape)
            file.create_dataset(path, data=array, **({**storage, "chunks": chunks} if storage else {}))
    return buffer.getvalue()[USER_BLOCK:]


def mutate_payload(payload: bytes, chance: random.Random) -> bytes:
    """An HDF5 file with one to six changes."""
    data = bytearray(payload)
    places = [place for mark in MARKS for place in _places(payload, mark)]
    for _ in range(chance.randint(1, 6)):
        if not data:
            break
        _change(data, places, chance)
    if chance.random() < 0.8:
        _mend(data)
    return bytes(data)


def _change(data: bytearray, places: Sequence[int], chance: random.Random) -> None:
    place = chance.choice(places) + chance.randrange(200) if places and chance.random() < 0.8 else 0
    place = place if 0 < place < len(data) else chance.randrange(len(data))
    kind = chance.randrange(8)
    if kind < 2:
        data[place] ^= 1 << chance.randrange(8)
    elif kind < 3:
        data[place] = chance.randrange(256)
    elif kind < 6:
        width = chance.choice((1, 2, 4, 8))
        number = chance.choice(NUMBERS) if chance.random() < 0.6 else chance.choice((*places, len(data)))
        data[place : place + width] = (number % 256**width).to_bytes(width, "little")
    elif kind == 6:
        other, length = chance.randrange(len(data)), chance.choice((8, 16, 64, 512))
        data[place : place + length] = data[other : other + length]
    elif chance.random() < 0.5:
        del data[place : place + chance.choice((1, 8, 512, len(data)))]
    else:
        data[place:place] = bytes(chance.choice((1, 8, 512)))


def _places(data: bytes | bytearray, mark: bytes) -> list[int]:
    found, place = [], data.find(mark)
    while place >= 0:
        found.append(place)
        place = data.find(mark, place + 1)
    return found


def _mend(data: bytearray) -> None:
    """Make the checksums of superblocks, object headers and the heads of indices right again."""
    spans = [(0, 44)] if len(data) > 8 and data[8] in (2, 3) else []
    spans += [(place, place + 24) for place in _places(data, b"FAHD")]
    spans += [(place, place + 34) for place in _places(data, b"BTHD")]
    for place in _places(data, b"OHDR"):
        flags = data[place + 5] if place + 5 < len(data) else 0
        start = place + 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        width = 1 << (flags & 3)
        spans.append((place, start + width + int.from_bytes(data[start : start + width], "little")))
    for start, end in spans:
        if end + 4 <= len(data):
            data[end : end + 4] = struct.pack("<I", lookup3(bytes(data[start:end])))


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hashlittle (lookup3.c, 2006) with initial value 0: HDF5's checksum of metadata."""
    mask = 0xFFFFFFFF

    def rotated(value: int, count: int) -> int:
        return (value << count | value >> (32 - count)) & mask

    a: int = (0xDEADBEEF + len(data)) & mask
    b = c = a
    x: int
    y: int
    z: int
    while len(data) > 12:
        x, y, z = struct.unpack_from("<III", data)
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        for count in (4, 6, 8, 16, 19, 4):
            a = (a - c) & mask ^ rotated(c, count)
            c = (c + b) & mask
            a, b, c = b, c, a
        data = data[12:]
    if not data:
        return c
    x, y, z = struct.unpack("<III", data.ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    for count in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - rotated(b, count)) & mask
        a, b, c = b, c, a
    # Seven turns leave the three names one place on from where they were.
    return b


def mutate_document(arrays: Mapping[str, np.ndarray], chance: random.Random) -> dict[str, np.ndarray]:
    """The bundle's datasets with one value or key of one JSON document changed."""
    path = chance.choice([each for each in arrays if each.endswith(DOCUMENTS)])
    document = json.loads(arrays[path].tobytes())
    _change_value(document, chance)
    return {**arrays, path: np.frombuffer(json.dumps(document).encode(), np.uint8)}


def _change_value(document: Any, chance: random.Random) -> None:
    while isinstance(document, dict | list) and document:
        key = chance.choice(list(document)) if isinstance(document, dict) else chance.randrange(len(document))
        inner = document[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
            document = inner
            continue
        kind = chance.randrange(4)
        if kind == 0:
            del document[key]
        elif kind == 1 and isinstance(document, dict):
            document[chance.choice(("", "x", "name", "\x1b[2J", "a" * 300))] = document.pop(key)
        else:
            document[key] = chance.choice((None, True, -1, 0, 1.5, 1e308, 2**63, 10**19, "", "x" * 5000, [], {}, [[]]))
        return


def mutate_shape(arrays: Mapping[str, np.ndarray], chance: random.Random) -> dict[str, np.ndarray]:
    """The bundle's datasets with one of them dropped, moved, cut, of another shape or another dtype."""
    path, changed = chance.choice(list(arrays)), dict(arrays)
    kind, array = chance.randrange(5), arrays[path]
    if kind == 0:
        del changed[path]
    elif kind == 1:
        changed[chance.choice([*arrays, "/x", "/recipes/x/predict"])] = changed.pop(path)
    elif kind == 2:
        changed[path] = array[: max(1, len(array) // chance.choice((2, 3, len(array))))]
    elif kind == 3:
        changed[path] = array.reshape(-1) if array.ndim > 1 else array[None]
    else:
        changed[path] = array.astype(chance.choice(("uint8", "uint16", "int64", "float16", "float32")))
    return changed


def mutate_program(program: bytes, chance: random.Random) -> bytes:
    """An ONNX model with one to three fields changed, deeply nested ones included."""
    for _ in range(chance.randint(1, 3)):
        program = _changed_message(program, "model", chance)
    if chance.random() < 0.05:
        place = chance.randrange(len(program))
        program = program[:place] + bytes([chance.randrange(256)]) + program[place + 1 :]
    return program


def _changed_message(message: bytes, kind: str, chance: random.Random) -> bytes:
    try:
        fields: list[Field] = [
            (number, value if isinstance(value, int) else bytes(value)) for number, value in protobuf.fields(message)
        ]
    except ProgramError:
        # An earlier change made it no message, or it never was one.
        return message
    if not fields:
        return protobuf.encode_number(chance.randrange(1, 16), chance.choice(NUMBERS))
    nested = [
        (place, NESTED[kind, number], value)
        for place, (number, value) in enumerate(fields)
        if isinstance(value, bytes) and (kind, number) in NESTED
    ]
    if nested and chance.random() < 0.85:
        # By size, else half of all changes would be in the few bytes that say which opset it is.
        place, inner, value = chance.choices(nested, [len(value) + 1 for _, _, value in nested])[0]
        fields[place] = (fields[place][0], _changed_message(value, inner, chance))
    else:
        _change_field(fields, chance)
    return b"".join(_encoded(*each) for each in fields)


def _change_field(fields: list[Field], chance: random.Random) -> None:
    place, kind = chance.randrange(len(fields)), chance.randrange(12)
    number, value = fields[place]
    if kind == 0:
        del fields[place]
    elif kind == 1:
        fields.insert(chance.randrange(len(fields) + 1), fields[place])
    elif kind == 2:
        other = chance.randrange(len(fields))
        fields[place], fields[other] = fields[other], fields[place]
    elif kind == 3:
        fields[place] = (chance.randrange(1, 27), value)
    elif isinstance(value, int):
        fields[place] = (number, chance.choice((*NUMBERS, value + 1, max(value - 1, 0), value * 2)) % 2**64)
    elif kind == 4:
        fields[place] = (number, value[: len(value) // 2])
    elif kind < 9 and value.decode("latin-1") in ALLOWED_OPERATORS:
        fields[place] = (number, chance.choice(sorted(ALLOWED_OPERATORS)).encode())
    elif kind < 9:
        fields[place] = (number, bytes(chance.choice([each for _, each in fields if isinstance(each, bytes)])))
    elif value:
        changed = bytearray(value)
        spot = chance.randrange(len(changed))
        changed[spot] ^= 1 << chance.randrange(8)
        fields[place] = (number, bytes(changed))


def _encoded(number: int, value: int | bytes) -> bytes:
    return protobuf.encode_number(number, value) if isinstance(value, int) else protobuf.encode_bytes(number, value)
