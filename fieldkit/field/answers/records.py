r"""Answers as lines of text: tables for people and shells, JSON Lines and CSV for programs.

    table   file, class, probability, those of further classes, and perhaps "uncertain", between tabs; no failed files
    jsonl   one JSON object per image, in ASCII, with the keys of ``Answer.to_json``
    csv     RFC 4180 with LF: a header, then one row per image; what is not known is empty

File names may hold any bytes.  JSON escapes what is not UTF-8 as Python does (\udc80 to \udcff), CSV holds the bytes as
they are, and a table spells control characters out, so that a line is a line.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fieldkit.bundle.atomic import check_writable, explaining, writing_atomically
from fieldkit.errors import UsageError
from fieldkit.field.answers.answers import Answer, place

FORMATS = ("table", "jsonl", "csv")
UNCERTAIN = "uncertain"
# The longest line that a crash may have left unfinished.
_LONGEST = 1 << 20
_SPELT_OUT = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


@dataclass(frozen=True)
class Record:
    """Lines that are written as answers come: ``add`` answers to it.

    path: of the file that ``stream`` is, for messages; None for a stream that is none.
    top: how many classes an answer names.
    """

    stream: IO[bytes]
    form: str
    top: int = 1
    path: Path | None = None

    def begin(self) -> None:
        """Write what comes before the first line, if anything does."""
        self._write(header(self.form, self.top))

    def add(self, answer: Answer) -> None:
        """Write an answer, whole and at once."""
        self._write(line(answer, self.form, self.top))

    def sync(self) -> None:
        """Make what was written durable, if it goes to a file."""
        if self.path is not None:
            with explaining(self.path):
                os.fsync(self.stream.fileno())

    def _write(self, text: str) -> None:
        with nullcontext() if self.path is None else explaining(self.path):
            self.stream.write(_encoded(text))
            self.stream.flush()


def format_of(path: Path | None) -> str:
    """The format that goes with a file's name."""
    suffix = "" if path is None else path.suffix.lower()
    return {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(suffix, "table")


def stream_record(stream: IO[bytes], form: str, top: int) -> Record:
    """A record on a stream that is open, stdout for instance."""
    record = Record(stream, form, top)
    record.begin()
    return record


@contextmanager
def new_record(path: Path, form: str, top: int) -> Iterator[Record]:
    """A record that becomes the file ``path`` at the end of the block, whole or not at all."""
    with writing_atomically(path) as file:
        record = Record(file, form, top, path)
        record.begin()
        yield record


@contextmanager
def continued_record(path: Path, form: str, top: int) -> Iterator[Record]:
    """A record at the end of the file ``path``, which is made if it is not there.

    Each answer is written at once.  A last line that a crash left unfinished is cut off.  Raises UsageError for a file
    of another kind.
    """
    target = check_writable(path)
    with explaining(path):
        file = os.fdopen(os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666), "r+b")
    try:
        record = Record(file, form, top, path)
        with explaining(path):
            begun = _cut_back(record)
        if not begun:
            record.begin()
        yield record
        record.sync()
    finally:
        # After a failed write, closing tries once more what is left.
        with suppress(OSError):
            file.close()


def _cut_back(record: Record) -> bool:
    """Cut off what follows the last line's end; whether any line is left."""
    file, form = record.stream, record.form
    file.seek(0)
    first = file.readline(_LONGEST)
    begin = header(form, record.top).encode()
    own = {"csv": first == begin or begin.startswith(first), "jsonl": first.startswith(b'{"file": '), "table": True}
    if first and not own[form]:
        raise UsageError(
            "not a file that these answers belong to",
            where=record.path,
            found=f"it begins {first[:60]!r}",
            expected=f"a file of predict with --format {form} --top {record.top}",
            remedy="name another file with -o",
        )
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - _LONGEST))
    end = start + file.read().rfind(b"\n") + 1
    if end < size:
        file.truncate(end)
    return end > 0


def header(form: str, top: int) -> str:
    """What comes before the first line of a format."""
    if form != "csv":
        return ""
    more = [f"{name}_{place}" for place in range(2, top + 1) for name in ("class", "probability")]
    return _row(["file", "array", "index", "class", "probability", "confident", *more, "fault"])


def line(answer: Answer, form: str, top: int) -> str:
    """An answer in a format, with its line's end; a table has none for a file that failed."""
    if form == "jsonl":
        return json.dumps(answer.to_json(), allow_nan=False) + "\n"
    if form == "csv":
        return _csv_line(answer, top)
    if answer.fault is not None:
        return ""
    cells = [place(answer).translate(_SPELT_OUT)]
    for label, probability in answer.top:
        cells += [label.translate(_SPELT_OUT), f"{probability:.4f}"]
    return "\t".join([*cells, *[UNCERTAIN] * (answer.confident is False)]) + "\n"


def _csv_line(answer: Answer, top: int) -> str:
    cells: list[object] = [answer.file, answer.array, answer.index, answer.label, answer.probability]
    cells.append({True: "true", False: "false", None: None}[answer.confident])
    for label, probability in answer.top[1:]:
        cells += [label, probability]
    # A model may have fewer classes than were asked for, and a file that failed has none.
    cells += [None] * (6 + 2 * (top - 1) - len(cells))
    return _row([*cells, answer.fault])


def _row(cells: list[object]) -> str:
    text = io.StringIO(newline="")
    # With this end of line, carriage returns inside a name are quoted as well.
    csv.writer(text, lineterminator="\r\n").writerow(["" if each is None else each for each in cells])
    return text.getvalue().removesuffix("\r\n") + "\n"


def _encoded(text: str) -> bytes:
    """UTF-8, and the bytes of file names that are not UTF-8 as they are on the disk."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")
