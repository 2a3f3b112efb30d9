"""What headquarters and field agree on: the nouns, and the bundle as a file (docs/bundle-format.md).

Names are imported when they are first used: the seal is checked before numpy and HDF5 are loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fieldkit.bundle.contents import Bundle as Bundle
    from fieldkit.bundle.reader import parse_bundle as parse_bundle
    from fieldkit.bundle.reader import read_bundle as read_bundle
    from fieldkit.bundle.writer import save_bundle as save_bundle
    from fieldkit.bundle.writer import write_bundle as write_bundle

_HOMES = {
    "Bundle": "fieldkit.bundle.contents",
    "parse_bundle": "fieldkit.bundle.reader",
    "read_bundle": "fieldkit.bundle.reader",
    "save_bundle": "fieldkit.bundle.writer",
    "write_bundle": "fieldkit.bundle.writer",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
