"""A tensor inside a model file: TensorProto to array and back."""

from __future__ import annotations

import numpy as np

from fieldkit.errors import ProgramError
from fieldkit.field.programs import program as onnx_format
from fieldkit.field.programs import protobuf
from fieldkit.field.programs.protobuf import encode_bytes, encode_number

# A tensor of more axes than numpy has makes none.
MAX_RANK = 32
ELEMENT_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "float16": 10}
"""ONNX's numbers of the dtypes that fieldkit writes into models."""
_DTYPES = {number: np.dtype(name).newbyteorder("<") for name, number in ELEMENT_TYPES.items()}


def encode_tensor(name: str, values: np.ndarray) -> bytes:
    """A TensorProto of one of ``ELEMENT_TYPES``, as raw bytes in ONNX's order, which is little-endian."""
    return b"".join(
        (
            *(encode_number(onnx_format.TENSOR_DIMS, length) for length in values.shape),
            encode_number(onnx_format.TENSOR_TYPE, ELEMENT_TYPES[values.dtype.name]),
            encode_bytes(onnx_format.TENSOR_NAME, name.encode()),
            encode_bytes(onnx_format.TENSOR_RAW, values.astype(values.dtype.newbyteorder("<")).tobytes()),
        )
    )


def decode_tensor(message: memoryview) -> dict[str, np.ndarray]:
    """One TensorProto as {name: array}, a copy; empty for one of a kind that fieldkit does not write.

    Raises ProgramError for a tensor that contradicts itself.
    """
    shape, name, kind, raw = [], "", 0, None
    for number, value in protobuf.fields(message):
        if number == onnx_format.TENSOR_DIMS:
            # Packed or one by one: protobuf writers may do either.
            shape += [value] if isinstance(value, int) else protobuf.varints(value)
        elif number == onnx_format.TENSOR_TYPE:
            kind = protobuf.number(value)
        elif number == onnx_format.TENSOR_NAME:
            name = protobuf.text(value)
        elif number == onnx_format.TENSOR_RAW:
            raw = protobuf.payload(value)
    if raw is None or kind not in _DTYPES:
        return {}
    dtype, count = _DTYPES[kind], 1
    for length in shape:
        count *= length
    if len(shape) > MAX_RANK or count * dtype.itemsize != len(raw):
        raise ProgramError(
            f"tensor {name!r} contradicts itself",
            found=f"{len(raw)} bytes for shape {tuple(shape)} of {dtype.name}",
            expected=f"{count * dtype.itemsize} bytes",
            remedy="get the file again",
        )
    return {name: np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="))}
