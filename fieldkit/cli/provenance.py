"""How a bundle was made, for people: its in-toto statement and its bill of libraries.

Both come from a file that may say anything, so nothing is taken to be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from fieldkit.cli import faces

VERDICTS = {
    True: "of how it was made, about exactly these parts (--provenance shows it)",
    False: "of how it was made, but ABOUT OTHER PARTS than these: do not rely on it",
    None: "none of how it was made",
}


def text(document: Mapping[str, Any]) -> str:
    """The statement, line by line, and a table of the libraries."""
    lines = [faces.heading("statement"), *(f"  {faces.in_line(line)}" for line in _lines(document["statement"]))]
    return "\n".join(lines) + "\n\n" + _libraries(document["components"])


def _lines(value: Any, path: str = "") -> Iterator[str]:
    """Every value with the keys that lead to it."""
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _lines(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for place, each in enumerate(value):
            yield from _lines(each, f"{path}[{place}]")
    elif path:
        yield f"{path}: {value if isinstance(value, str) else json.dumps(value)}"


def _libraries(bill: Mapping[str, Any]) -> str:
    listed = bill.get("components")
    rows = [("library", "version", "licence")]
    for each in listed if isinstance(listed, list) else []:
        if isinstance(each, Mapping):
            name, version = (faces.in_line(str(each.get(key, ""))) for key in ("name", "version"))
            rows.append((name, version, faces.in_line(_licence(each.get("licenses")))))
    return faces.table(rows) if len(rows) > 1 else "no list of libraries"


def _licence(found: Any) -> str:
    first = found[0] if isinstance(found, list) and found else {}
    if not isinstance(first, Mapping):
        return ""
    named = first.get("license")
    name = named.get("name", named.get("id", "")) if isinstance(named, Mapping) else ""
    return str(first.get("expression", name))
