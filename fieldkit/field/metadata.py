"""What an ONNX model says about itself, key to value: written without the ``onnx`` package."""

from __future__ import annotations

from collections.abc import Mapping

from fieldkit.field import program as onnx_format
from fieldkit.field import protobuf
from fieldkit.field.protobuf import encode_bytes, encode_number


def encode_metadata(metadata: Mapping[str, str]) -> bytes:
    """The fields of a model that hold its metadata."""
    return b"".join(
        encode_bytes(
            onnx_format.MODEL_METADATA,
            encode_bytes(onnx_format.ENTRY_KEY, key.encode()),
            encode_bytes(onnx_format.ENTRY_VALUE, value.encode()),
        )
        for key, value in metadata.items()
    )


def with_metadata(model: bytes, metadata: Mapping[str, str], where: str = "model") -> bytes:
    """``model`` with these entries added, in place of those that have the same keys.

    Raises ProgramError, with ``where`` the model is, for bytes that are none.
    """
    kept = onnx_format.read_metadata(model, where)
    others = (
        encode_number(number, value) if isinstance(value, int) else encode_bytes(number, value)
        for number, value in protobuf.fields(model)
        if number != onnx_format.MODEL_METADATA
    )
    return b"".join((*others, encode_metadata(kept | metadata)))
