"""What people see: progress on stderr, tables and JSON documents on stdout.

Off a terminal nothing moves: a long run writes a line now and then.  NO_COLOR and --quiet are kept.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import click

REDRAW_SECONDS = 0.1
LINE_SECONDS = 15.0
BAR_WIDTH = 24


# Names and notes come from files: what moves a terminal's cursor or changes its colours is spelt out.
# So is what writes from right to left, behind which other words can hide.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_CONTROLS |= {
    code: f"\\u{code:04x}" for code in (0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
}
_ENDS = {9: "\\t", 10: "\\n"}


def print_json(kind: str, document: Mapping[str, Any], version: int = 1) -> None:
    """Print one JSON document whose ``schema`` names the command and the version of its shape."""
    click.echo(json.dumps({"schema": f"fieldkit.{kind}/{version}", **document}, indent=2, allow_nan=False))


def print_error(message: str) -> None:
    """One error, on stderr."""
    click.echo(f"{styled('error', sys.stderr.isatty(), fg='red', bold=True)}: {visible(message)}", err=True)


def print_note(message: str, quiet: bool = False) -> None:
    """One line of what is going on, on stderr."""
    if not quiet:
        click.echo(visible(message), err=True)


def visible(text: str) -> str:
    """``text`` with its control characters, but for tabs and line ends, spelt out."""
    return text.translate(_CONTROLS)


def in_line(text: str) -> str:
    """As ``visible``, with tabs and line ends too: what stands in a row cannot pose as another row."""
    return visible(text).translate(_ENDS)


def heading(text: str) -> str:
    """A title for stdout."""
    return styled(text, sys.stdout.isatty(), bold=True)


def styled(text: str, terminal: bool, **style: Any) -> str:
    """``text`` in colour, where a terminal shows it and NO_COLOR is not set."""
    return click.style(text, **style) if terminal and not os.environ.get("NO_COLOR") else text


def percent(fraction: float) -> str:
    """0.9751 as "97.5 %"."""
    return f"{100 * fraction:.1f} %"


def table(rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Rows in aligned columns, the first row being the header; columns in ``numbers`` are set flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


class Progress:
    """A bar with rate and time left on a terminal; a sparse line elsewhere; nothing when quiet.

    Use it as a context and call it with (done, total, note), or ``show`` it a share.  Rate and time left are measured
    from the first call on, so that neither preparation nor what a resumed run had already done distorts them.
    """

    def __init__(self, label: str, unit: str, quiet: bool = False) -> None:
        self.label = label
        self.unit = unit
        self.quiet = quiet
        self.terminal = sys.stderr.isatty()
        self.shown = time.monotonic() if not self.terminal else 0.0
        self.first: tuple[float, int, float] | None = None
        self.drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.drawn:
            click.echo(err=True)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show that ``done`` of ``total`` units are done."""
        self.show(f"{done}/{total}", done, done / max(total, 1), note)

    def show(self, place: str, count: int, share: float, note: str = "") -> None:
        """Show a ``place`` in the work, the ``count`` of units made so far, and the share of the work that is done."""
        if self.quiet:
            return
        now = time.monotonic()
        self.first = self.first or (now, count, share)
        wait = REDRAW_SECONDS if self.terminal else LINE_SECONDS
        if now - self.shown < wait and not (share >= 1.0 and self.terminal):
            return
        self.shown = now
        line = "  ".join(each for each in (place, self._pace(count, share, now), note) if each)
        if not self.terminal:
            click.echo(f"{self.label} {line}", err=True)
            return
        filled = int(BAR_WIDTH * min(share, 1.0))
        # Erase to the end of the line, so that a shorter line leaves nothing of a longer one.
        bar = f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]"
        click.echo(f"\r\x1b[K{self.label} {bar} {line}", err=True, nl=False)
        self.drawn = True

    def _pace(self, count: int, share: float, now: float) -> str:
        assert self.first is not None
        began, first_count, first_share = self.first
        seconds = now - began
        if share <= first_share or seconds <= 0:
            return ""
        rate = f"{(count - first_count) / seconds:.1f} {self.unit}/s"
        if share >= 1.0:
            return f"{rate}, took {duration(seconds)}"
        return f"{rate}, {duration(seconds * (1.0 - share) / (share - first_share))} left"


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
