"""Sizes as people write and read them: 256KB, 1.5 MiB, 812 kB."""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)


class Size(click.ParamType[int]):
    """A number of bytes, at least one: "300000", "256KB", "1.5 MiB"."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = _FORM.fullmatch(str(value))
        unit = None if found is None else _UNITS.get(found[2].upper())
        if found is None or unit is None or round(float(found[1]) * unit) < 1:
            self.fail(f"{value!r} is no size, such as 300000, 256KB or 1.5MiB", param, ctx)
        return round(float(found[1]) * unit)


SIZE = Size()


def spelt(count: float) -> str:
    """A number of bytes in few digits: 812 B, 20.5 kB, 1.25 MB."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        # 999.5 kB is 1 MB in three digits.
        if count >= 0.9995 * unit:
            return f"{count / unit:.3g} {name}" if count < 999.5 * unit else f"{count / unit:.0f} {name}"
    return f"{count:.0f} B"
