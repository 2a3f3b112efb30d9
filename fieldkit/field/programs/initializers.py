"""The tensors that a model file holds, read from its bytes: what ``exporting.complete_model`` wrote into it."""

from __future__ import annotations

import numpy as np

from fieldkit.errors import ProgramError
from fieldkit.field.programs import program as onnx_format
from fieldkit.field.programs import protobuf
from fieldkit.field.programs.tensors import decode_tensor


def read_initializers(model: bytes, where: str) -> dict[str, np.ndarray]:
    """The initializers of an ONNX model that are stored as raw bytes, by name: copies.

    Those of a dtype that fieldkit does not write are left out.  Of two with one name the last counts.
    Raises ProgramError, with ``where`` the model is, for bytes that are no model or a tensor that contradicts itself.
    """
    found: dict[str, np.ndarray] = {}
    try:
        for number, value in protobuf.fields(model):
            if number != onnx_format.MODEL_GRAPH:
                continue
            for inner, tensor in protobuf.fields(protobuf.payload(value)):
                if inner == onnx_format.GRAPH_INITIALIZER:
                    found |= decode_tensor(protobuf.payload(tensor))
    except ProgramError as error:
        raise onnx_format.placed(error, where) from None
    return found
