"""What the generators share: a small bundle, its parts, and rightly sealed files of whatever they make of these."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tiny import bundle

from fieldkit.bundle import write_bundle
from fieldkit.bundle.hdf5 import h5py, unpack
from fieldkit.bundle.seal import USER_BLOCK, seal

WHOLE = write_bundle(bundle(weights=True))
PARTS = {path: each.array for path, each in unpack(WHOLE, "whole").items()}
REAL = Path(__file__).parents[2] / "bundles" / "mnist-1.h5"


@dataclass(frozen=True)
class Case:
    """A file's bytes, and a part of the message with which it is refused.

    code: the exit code.  program: whether it is an ONNX model rather than a bundle.
    """

    data: bytes
    reason: str
    code: int = 4
    program: bool = False


def sealed(
    build: Callable[[Any], object] = lambda file: None,
    parts: Mapping[str, np.ndarray] = PARTS,
    name: str = "tiny",
    **how: Any,
) -> bytes:
    """A rightly sealed file of ``parts``, into which ``build`` puts what it likes; ``how`` is told to h5py."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=USER_BLOCK, **how) as file:
        for path, array in parts.items():
            file[path] = array
        build(file)
    payload = buffer.getvalue()[USER_BLOCK:]
    return seal(name, payload) + payload


def resealed(payload: bytes, name: str = "tiny") -> bytes:
    """A file whose seal is right for ``payload``."""
    return seal(name, payload) + payload


def replaced(path: str, **how: Any) -> Callable[[Any], None]:
    """Puts a dataset that h5py makes so in the place of another."""

    def build(file: Any) -> None:
        del file[path]
        file.create_dataset(path, **how)

    return build
