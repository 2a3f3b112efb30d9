"""Links that lead elsewhere, and members that no bundle has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fieldkit.bundle.hdf5 import h5py
from hostile.making import Case, sealed


def _soft(file: Any) -> None:
    del file["/card"]
    file["/card"] = h5py.SoftLink("/manifest")


def _soft_group(file: Any) -> None:
    del file["/probe"]
    file["/probe"] = h5py.SoftLink("/distilled")


def _external(file: Any) -> None:
    del file["/card"]
    file["/card"] = h5py.ExternalLink("/etc/passwd", "/x")


def _hard(file: Any) -> None:
    del file["/card"]
    file["/card"] = file["/manifest"]


def _loop(file: Any) -> None:
    del file["/recipes/net/train"]
    file["/recipes/net/train"] = file["/recipes"]


def _many(file: Any) -> None:
    for index in range(300):
        file.create_group(f"/recipes/r{index}")


def _deep(file: Any) -> None:
    file.create_group("/recipes/net/train/" + "/".join(["x"] * 500))


def _noted(path: str, value: Any = "x") -> Callable[[Any], object]:
    return lambda file: file[path].attrs.__setitem__("note", value)


TRICKS: dict[str, tuple[Callable[[Any], object], str]] = {
    "extra dataset": (lambda file: file.__setitem__("/more", 1), "/more: not part"),
    "extra group": (lambda file: file.create_group("/recipes/net/test"), "/recipes/net/test: not part"),
    "odd recipe": (lambda file: file.create_group("/recipes/Net"), "/recipes/Net: not part"),
    "name that climbs": (lambda file: file.create_group("/recipes/.."), "not part"),
    "unknown scope": (lambda file: file.__setitem__("/recipes/net/train/half", 1), "half: not part"),
    "a group for a dataset": (lambda file: [file.pop("/card"), file.create_group("/card")], "another kind"),
    "many members": (_many, "members; expected at most 256"),
    "five hundred groups deep": (_deep, "not part"),
    "attribute of a dataset": (_noted("/card"), "/card: attributes"),
    "attribute of a group": (_noted("/probe"), "/probe: attributes"),
    "attribute of the root": (_noted("/"), "/: attributes"),
    "large attribute": (_noted("/card", b"x" * 60_000), "/card: attributes"),
    "soft link": (_soft, "/card: a soft or external link"),
    "soft link to a group": (_soft_group, "/probe: a soft or external link"),
    "external link": (_external, "/card: a soft or external link"),
    "hard link": (_hard, "linked from more than one place"),
    "loop": (_loop, "linked from more than one place"),
}


def cases() -> dict[str, Case]:
    return {name: Case(sealed(build), reason) for name, (build, reason) in TRICKS.items()}
