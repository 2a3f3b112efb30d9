"""The wire format of Protocol Buffers, as much of it as ONNX files need.

A device has no ``onnx`` package, yet it must look into a program before it runs it and must write complete models.
Both take a page: https://protobuf.dev/programming-guides/encoding/ describes the format.  Messages merge when their
bytes are concatenated, which is how a model gets its weights (see ``fieldkit.field.models.exporting``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from fieldkit.errors import ProgramError

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
MAX_KEY = 2**32 - 1

# One field of a message: its number, and an int for a varint or else the raw bytes.
Field: TypeAlias = "tuple[int, int | memoryview]"


def fields(message: memoryview | bytes) -> Iterator[Field]:
    """Every field of ``message`` in file order, repeated ones repeatedly.

    Raises ProgramError where the bytes are no message: cut off, or of a wire type that ONNX does not use.
    """
    view = memoryview(message)
    place = 0
    while place < len(view):
        key, place = _read_varint(view, place)
        number, wire_type = key >> 3, key & 7
        # Google's parser keeps 32 bits of a key: a longer one is another field to it than it looks here.
        if number == 0 or key > MAX_KEY:
            raise _malformed(f"field number {number}")
        if wire_type == VARINT:
            value, place = _read_varint(view, place)
            yield number, value
            continue
        if wire_type == LENGTH_DELIMITED:
            length, place = _read_varint(view, place)
        elif wire_type in (FIXED64, FIXED32):
            length = 8 if wire_type == FIXED64 else 4
        else:
            raise _malformed(f"wire type {wire_type}")
        if length > len(view) - place:
            raise _malformed(f"a field of {length} bytes where {len(view) - place} are left")
        yield number, view[place : place + length]
        place += length


def text(value: int | memoryview) -> str:
    """A field's value as a string."""
    try:
        return str(payload(value), "utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("text that is not UTF-8") from error


def payload(value: int | memoryview) -> memoryview:
    """A field's value as bytes or a nested message."""
    if isinstance(value, int):
        raise _malformed("a number where bytes belong")
    return value


def number(value: int | memoryview) -> int:
    """A field's value as an integer (ONNX stores none that is negative where we read one)."""
    if not isinstance(value, int):
        raise _malformed("bytes where a number belongs")
    return value


def varints(message: memoryview) -> list[int]:
    """The numbers of a packed repeated field."""
    found, place = [], 0
    while place < len(message):
        value, place = _read_varint(message, place)
        found.append(value)
    return found


def encode_varint(value: int) -> bytes:
    """A non-negative integer in base 128, least significant group first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_number(field: int, value: int) -> bytes:
    """One varint field."""
    return encode_varint(field << 3 | VARINT) + encode_varint(value)


def encode_bytes(field: int, *pieces: bytes | memoryview) -> bytes:
    """One length-delimited field: bytes, text in UTF-8, or a nested message, given whole or in pieces."""
    length = sum(len(piece) for piece in pieces)
    return b"".join((encode_varint(field << 3 | LENGTH_DELIMITED), encode_varint(length), *pieces))


def _read_varint(view: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for count in range(MAX_VARINT_BYTES):
        if place >= len(view):
            raise _malformed("a number that is cut off")
        byte = view[place]
        place += 1
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, place
    raise _malformed(f"a number of more than {MAX_VARINT_BYTES} bytes")


def _malformed(found: str) -> ProgramError:
    return ProgramError(
        "these bytes are no ONNX model", found=found, expected="a Protocol Buffers message", remedy="get the file again"
    )
