"""Answers as lines: whatever a file is called, each line is one answer and gives the name back."""

from __future__ import annotations

import csv
import io
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_bundle_atomic import files_of_at_most, names

from fieldkit.errors import ResourceError, UsageError
from fieldkit.field.answers.answers import Answer
from fieldkit.field.answers.records import FORMATS, Record, continued_record, format_of, header, line, new_record

GOOD = Answer("a.png", top=(("oak", 0.75), ("pine", 0.25)), confident=True)
BAD = Answer('b, "c"\n.png', fault="unreadable, sadly", remedy="mend it")

# What Linux allows in a path: any bytes but 0.
PATHS = st.binary(min_size=1, max_size=30).map(lambda path: os.fsdecode(path.replace(b"\0", b"x")))
ANSWERS = st.builds(
    Answer,
    file=PATHS,
    array=st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
    index=st.none() | st.integers(0, 10**9),
    top=st.sampled_from([(("oak", 0.75), ("pi\tne", 1e-45)), (("a,b", 1.0), ('"', 0.0))]),
    confident=st.sampled_from([True, False, None]),
) | st.builds(Answer, file=PATHS, fault=st.text(st.characters(codec="utf-8"), max_size=20))


def recorded(answers: list[Answer], form: str, top: int = 2) -> bytes:
    stream = io.BytesIO()
    record = Record(stream, form, top)
    record.begin()
    for answer in answers:
        record.add(answer)
    return stream.getvalue()


@given(answers=st.lists(ANSWERS, max_size=4))
def test_csv_gives_back_what_went_in(answers: list[Answer]) -> None:
    text = recorded(answers, "csv").decode("utf-8", "surrogateescape")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == len(answers)
    for row, answer in zip(rows, answers, strict=True):
        assert row["file"] == answer.file
        assert row["array"] == (answer.array or "")
        assert row["index"] == ("" if answer.index is None else str(answer.index))
        assert row["confident"] == {True: "true", False: "false", None: ""}[answer.confident]
        assert row["fault"] == (answer.fault or "")
        given_back = [(row[f"class{n}"], row[f"probability{n}"]) for n in ("", "_2")]
        assert given_back == ([(name, str(chance)) for name, chance in answer.top] or [("", "")] * 2)


@given(answers=st.lists(ANSWERS, max_size=4))
def test_json_lines_give_back_what_went_in(answers: list[Answer]) -> None:
    lines = recorded(answers, "jsonl").decode("ascii").splitlines()
    assert [json.loads(each) for each in lines] == [each.to_json() for each in answers]
    assert [os.fsencode(json.loads(each)["file"]) for each in lines] == [os.fsencode(each.file) for each in answers]


@given(answers=st.lists(ANSWERS, max_size=4))
def test_a_line_of_a_table_is_one_answer(answers: list[Answer]) -> None:
    lines = recorded(answers, "table").split(b"\n")
    good = [answer for answer in answers if answer.fault is None]
    assert len(lines) == len(good) + 1
    for each, answer in zip(lines, good, strict=False):
        cells = each.decode("utf-8", "surrogateescape").split("\t")
        assert len(cells) == 5 + (answer.confident is False)
        assert not any(ord(character) < 32 for cell in cells for character in cell)


def test_lines_as_people_see_them() -> None:
    assert line(GOOD, "table", 2) == "a.png\toak\t0.7500\tpine\t0.2500\n"
    doubtful = Answer("s.npz", "x_test", 7, (("oak", 0.4),), False)
    assert line(doubtful, "table", 1) == "s.npz:x_test[7]\toak\t0.4000\tuncertain\n"
    assert line(BAD, "table", 1) == ""
    assert header("csv", 2) == "file,array,index,class,probability,confident,class_2,probability_2,fault\n"
    assert line(BAD, "csv", 1) == '"b, ""c""\n.png",,,,,,"unreadable, sadly"\n'


def test_a_class_name_that_is_no_text_is_spelt_out() -> None:
    assert recorded([Answer("a", top=(("\ud800", 1.0),))], "csv", 1).endswith(b"a,,,\\ud800,1.0,,\n")


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.csv", "csv"), ("a.JSONL", "jsonl"), ("a.ndjson", "jsonl"), ("a.txt", "table"), (None, "table")],
)
def test_a_name_says_the_format(name: str | None, form: str) -> None:
    assert format_of(None if name is None else Path(name)) == form


def test_a_new_record_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("before")
    with suppress(KeyboardInterrupt), new_record(path, "csv", 2) as record:
        record.add(GOOD)
        assert path.read_text() == "before"
        raise KeyboardInterrupt
    assert (path.read_text(), names(tmp_path)) == ("before", ["a.csv"])
    with new_record(path, "csv", 2) as record:
        record.add(GOOD)
    assert path.read_bytes() == recorded([GOOD], "csv")
    assert names(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("opened", [new_record, continued_record])
def test_a_full_disk_is_said(tmp_path: Path, opened: type) -> None:
    def write() -> None:
        with opened(tmp_path / "a.jsonl", "jsonl", 2) as record:
            for _ in range(100):
                record.add(GOOD)

    with files_of_at_most(2000), pytest.raises(ResourceError, match="no space left"):
        write()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("torn", [b"", b'{"file": "half', b"half a li"])
def test_a_record_is_continued_behind_its_last_whole_line(tmp_path: Path, form: str, torn: bytes) -> None:
    path = tmp_path / "answers"
    for _ in range(2):
        with continued_record(path, form, 2) as record:
            record.add(GOOD)
        with path.open("ab") as file:
            file.write(torn)
    with continued_record(path, form, 2) as record:
        record.add(BAD)
        # Each answer is there at once.
        assert path.read_bytes() == recorded([GOOD, GOOD, BAD], form)


def test_a_header_that_a_crash_cut_off_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"file,arr")
    with continued_record(path, "csv", 1) as record:
        record.add(BAD)
    assert path.read_bytes() == recorded([BAD], "csv", 1)


@pytest.mark.parametrize(("form", "top"), [("csv", 1), ("jsonl", 2)])
def test_answers_are_not_added_to_a_file_of_another_kind(tmp_path: Path, form: str, top: int) -> None:
    path = tmp_path / "notes"
    path.write_bytes(recorded([GOOD], "csv", 2) + b"half")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="not a file that these answers belong to"), continued_record(path, form, top):
        pass
    assert path.read_bytes() == before
