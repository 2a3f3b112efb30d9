"""The libraries that a bundle was built with, as a CycloneDX bill of materials (ECMA-424, version 1.6, JSON).

Neither date nor serial number: the same environment gives the same bytes.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any
from urllib.parse import quote

ROOT = "fieldkit"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LONGEST_LICENCE = 80


def bill_of_materials(bundle: str) -> dict[str, Any]:
    """The bill of a bundle of this name: fieldkit and everything installed that it needs here, HQ's extra included."""
    found = sorted(set(_needed()), key=lambda each: _normalised(each.name))
    python = {"type": "platform", "name": "python", "version": platform.python_version()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "data", "name": bundle}},
        "components": [*map(_component, found), python],
    }


class _Library:
    """An installed distribution, equal to another of the same name."""

    def __init__(self, name: str) -> None:
        self.installed = metadata.distribution(name)
        self.name = self.installed.metadata["Name"]

    def __hash__(self) -> int:
        return hash(_normalised(self.name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Library) and _normalised(self.name) == _normalised(other.name)

    def requirements(self) -> Iterator[str]:
        """Names of what it needs; of optional needs only fieldkit's own for HQ."""
        for line in self.installed.requires or ():
            name, _, marker = line.partition(";")
            optional = "extra" in marker
            if not optional or (self.name == ROOT and re.search(r"extra\s*==\s*['\"]hq['\"]", marker)):
                found = _NAME.match(name)
                if found:
                    yield found.group()


def _needed() -> Iterator[_Library]:
    """fieldkit and all that it needs, as far as it is installed: other systems need more, or other things."""
    waiting, seen = [ROOT], {ROOT}
    while waiting:
        try:
            library = _Library(waiting.pop())
        except metadata.PackageNotFoundError:
            continue
        yield library
        more = sorted({_normalised(name) for name in library.requirements()} - seen)
        waiting += more
        seen.update(more)


def _component(library: _Library) -> dict[str, Any]:
    name, version = library.name, library.installed.version
    url = f"pkg:pypi/{_normalised(name)}@{quote(version, safe='')}"
    licence = _licence(library.installed.metadata)
    described = {"type": "library", "bom-ref": url, "name": name, "version": version, "purl": url}
    return described | ({"licenses": [licence]} if licence else {})


def _licence(about: metadata.PackageMetadata) -> dict[str, Any] | None:
    """What a distribution says of its licence: an SPDX expression, a name, or the last part of a classifier."""
    fields: dict[str, Any] = about.json
    if fields.get("license_expression"):
        return {"expression": fields["license_expression"]}
    named = str(fields.get("license") or "").strip()
    if named and "\n" not in named and len(named) <= _LONGEST_LICENCE:
        return {"license": {"name": named}}
    for line in fields.get("classifier", ()):
        if line.startswith("License ::"):
            return {"license": {"name": line.rpartition(" :: ")[2]}}
    return None


def _normalised(name: str) -> str:
    """A distribution's name as the package index compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
