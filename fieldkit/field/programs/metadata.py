"""What an ONNX model says about itself, key to value."""

from __future__ import annotations

from collections.abc import Mapping

from fieldkit.field.programs import protobuf
from fieldkit.field.programs.graph import encode_metadata
from fieldkit.field.programs.program import MODEL_METADATA, read_metadata
from fieldkit.field.programs.protobuf import encode_bytes, encode_number


def with_metadata(model: bytes, metadata: Mapping[str, str], where: str = "model") -> bytes:
    """``model`` with these entries added, in place of those of the same keys; all else stays as it is.

    Raises ProgramError, with ``where`` the model is, for bytes that are none.
    """
    kept = read_metadata(model, where)
    others = (
        encode_number(number, value) if isinstance(value, int) else encode_bytes(number, value)
        for number, value in protobuf.fields(model)
        if number != MODEL_METADATA
    )
    return b"".join((*others, encode_metadata({**kept, **metadata})))
