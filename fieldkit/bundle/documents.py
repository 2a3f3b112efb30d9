"""JSON inside a bundle: written canonically, read strictly, checked against a form that names every key.

A form is one of
    str, int, float, bool, dict     a value of that type; float takes an int too, and only finite numbers
    None                            null
    (form, form)                    an array of exactly these
    [form]                          an array of any length
    {"key": form, "key?": form}     an object with these keys and no others; "?" marks one that may be absent
    Each(form)                      an object with any keys
    OneOf(form, ...)                a value of one of these forms
    Word("a", "b")                  one of these strings
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fieldkit.errors import DamagedBundle

MAX_VALUES = 1_000_000
"""Values in all JSON of a bundle together, numbers and keys included."""
MAX_DEPTH = 100
"""Levels of arrays and objects in one another; whoever prints or writes a document needs a few calls for each."""
_DIGITS = 20
_LISTED = 20
_NAMES: dict[Any, str] = {
    str: "a string",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    dict: "an object",
    None: "null",
}


@dataclass(frozen=True)
class Each:
    """An object with any keys, whose values are all of ``form``."""

    form: Any


class OneOf:
    """A value that is of at least one of ``forms``."""

    def __init__(self, *forms: Any) -> None:
        self.forms = forms


class Word:
    """One of a few strings."""

    def __init__(self, *words: str) -> None:
        self.words = words


def encode(document: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII.  Raises ValueError for NaN and infinity."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode(data: bytes, path: str) -> dict[str, Any]:
    """The JSON object in ``data``.

    Raises DamagedBundle naming ``path``; keys given twice, NaN, infinity and more than MAX_DEPTH levels are refused.
    """
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_once,
            parse_constant=_refuse,
            parse_int=_whole,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise DamagedBundle(f"not a JSON document: {error}", where=path) from error
    if not isinstance(document, dict):
        raise DamagedBundle("not a JSON object", where=path, found=type(document).__name__)
    if not _is_shallow(document):
        raise DamagedBundle("JSON that is nested too deeply", where=path, expected=f"at most {MAX_DEPTH} levels")
    return document


def values_at_most(data: bytes) -> int:
    """An upper bound of how many values and keys the JSON in ``data`` has, in the time of reading it."""
    return 1 + sum(data.count(sign) for sign in (b",", b":", b"[", b"{"))


def listed(faults: Iterable[str]) -> str:
    """Faults in one line, the first twenty of them; a hostile document may have a million."""
    found = list(itertools.islice(faults, _LISTED + 1))
    return "; ".join(found[:_LISTED]) + ("; and more" if len(found) > _LISTED else "")


def faults(value: Any, form: Any, place: str) -> Iterator[str]:
    """One sentence for each way in which ``value``, found at ``place``, differs from ``form``."""
    if isinstance(form, dict):
        yield from _object_faults(value, form, place)
    elif isinstance(form, list | tuple):
        yield from _array_faults(value, form, place)
    elif isinstance(form, Each):
        yield from faults(value, dict, place)
        for key, each in value.items() if isinstance(value, dict) else ():
            yield from faults(each, form.form, f"{place}.{key}")
    elif isinstance(form, OneOf):
        if all(any(faults(value, each, place)) for each in form.forms):
            yield f"{place}: found {_shown(value)}; expected {' or '.join(_NAMES.get(f, '?') for f in form.forms)}"
    elif isinstance(form, Word):
        if value not in form.words or not isinstance(value, str):
            yield f"{place}: found {_shown(value)}; expected {' or '.join(form.words)}"
    elif not _is_a(value, form):
        yield f"{place}: found {_shown(value)}; expected {_NAMES[form]}"


def _object_faults(value: Any, form: dict[str, Any], place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place}: found {_shown(value)}; expected an object"
        return
    known = {key.removesuffix("?"): key for key in form}
    for name, key in known.items():
        if name in value:
            yield from faults(value[name], form[key], f"{place}.{name}")
        elif name == key:
            yield f"{place}.{name}: missing"
    yield from (f"{place}.{name}: unknown key" for name in value if name not in known)


def _array_faults(value: Any, form: list[Any] | tuple[Any, ...], place: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{place}: found {_shown(value)}; expected an array"
    elif isinstance(form, tuple) and len(value) != len(form):
        yield f"{place}: found {len(value)} entries; expected {len(form)}"
    else:
        for index, each in enumerate(value):
            yield from faults(each, form[index] if isinstance(form, tuple) else form[0], f"{place}[{index}]")


def _is_a(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, kind)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _is_shallow(document: Any) -> bool:
    """Whether there are at most MAX_DEPTH levels; found level by level, since a recursion would need as many calls."""
    level = [document]
    for _ in range(MAX_DEPTH):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [value for values in inside for value in values if isinstance(value, dict | list)]
        if not level:
            return True
    return False


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key is given twice")
    return document


def _whole(text: str) -> int:
    # Reading a number takes time that grows with the square of its digits.
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
