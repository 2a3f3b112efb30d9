"""The tensors that a model file holds, read from its bytes: what ``exporting.complete_model`` wrote into it."""

from __future__ import annotations

import numpy as np

from fieldkit.errors import ProgramError
from fieldkit.field import program as onnx_format
from fieldkit.field import protobuf

# A tensor of more axes than numpy has makes none.
MAX_RANK = 32
_DTYPES = {number: np.dtype(name).newbyteorder("<") for name, number in onnx_format.ELEMENT_TYPES.items()}


def read_initializers(model: bytes, where: str) -> dict[str, np.ndarray]:
    """The float32 and int64 initializers of an ONNX model that are stored as raw bytes, by name: copies.

    Others are left out: fieldkit writes none.  Of two with one name the last counts.
    Raises ProgramError, with ``where`` the model is, for bytes that are no model or a tensor that contradicts itself.
    """
    found: dict[str, np.ndarray] = {}
    try:
        for number, value in protobuf.fields(model):
            if number != onnx_format.MODEL_GRAPH:
                continue
            for inner, tensor in protobuf.fields(protobuf.payload(value)):
                if inner == onnx_format.GRAPH_INITIALIZER:
                    found |= _tensor(protobuf.payload(tensor))
    except ProgramError as error:
        raise ProgramError(
            error.message, where=where, found=error.found, expected=error.expected, remedy=error.remedy
        ) from None
    return found


def _tensor(message: memoryview) -> dict[str, np.ndarray]:
    """One TensorProto as {name: array}; empty for one of a kind that fieldkit does not write."""
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
