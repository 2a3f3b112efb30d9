"""The format is a page before it is code: the page, the golden bytes and the code must agree."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from test_bundle import same

from fieldkit.bundle import documents, layout, read_bundle, write_bundle
from fieldkit.bundle.recipe import SCOPES
from fieldkit.bundle.seal import (
    MAGIC,
    MAX_NAME,
    SIGNATURES_AT,
    STATEMENT_AT,
    USER_BLOCK,
    Seal,
    Statement,
    open_seal,
    seal,
)
from fieldkit.bundle.versions import FORMAT_VERSION, RUNTIME
from fieldkit.errors import UsageError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
GOLDEN = Path(__file__).parent / "golden" / "tiny-v1.h5"


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading that starts so."""
    lines = iter(PAGE[PAGE.index(f"## {heading}") :].splitlines())
    table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def test_the_page_lists_exactly_the_layouts_datasets() -> None:
    expected = [
        [
            entry.path,
            ", ".join(entry.dtypes),
            str(entry.rank),
            str(entry.limit // layout.MIB),
            "yes" if entry.required else "no",
            entry.holds,
        ]
        for entry in layout.ENTRIES
    ]
    assert rows("The payload") == expected


def test_the_page_gives_the_offsets_of_the_user_block() -> None:
    offsets = [row[0] for row in rows("The user block")]
    assert offsets == [str(offset) for offset in (0, STATEMENT_AT, SIGNATURES_AT, USER_BLOCK)]


def test_the_page_gives_the_limits() -> None:
    for text in (
        f"larger than {layout.MAX_FILE // layout.MIB} MiB",
        f"{layout.FREE_BYTES // layout.MIB} MiB + {layout.MAX_RATIO} x the file's size",
        f"more than {layout.MAX_LINKS} members",
        f"  {layout.MAX_CHUNKS} chunks of a dataset",
        f"more than {documents.MAX_VALUES:,} values",
        f"1 to {MAX_NAME} printable characters",
        ", ".join(f"`{scope}`" for scope in SCOPES[:-1]) + f" or `{SCOPES[-1]}`",
        " and ".join([", ".join(layout.FILTERS[:-1]), layout.FILTERS[-1]]),
    ):
        assert text in PAGE, text
    assert f"version {FORMAT_VERSION}" in PAGE.splitlines()[0]


def test_golden_user_block() -> None:
    payload = b"payload"
    encoded = (
        b'{"format":"fieldkit-bundle","min_runtime":"0.1","name":"tiny","payload_length":7,"payload_sha256":'
        b'"239f59ed55e737c77147cf55ad0c1b030b6d7ee748a7426952f9b852d5a935e5","serial":3,"version":1}\n'
    )
    block = seal("tiny", payload, serial=3)
    own = hashlib.sha256(encoded[:-1]).hexdigest().encode() + b"\n"
    assert block == MAGIC + encoded + own + bytes(4096 - 16 - len(encoded) - len(own))
    statement = Statement("tiny", 7, hashlib.sha256(payload).hexdigest(), 3)
    assert open_seal(block + payload, "memory") == Seal(statement)


def test_the_golden_bundle_stays_readable() -> None:
    found = read_bundle(GOLDEN)
    assert same(replace(found, digest=""), tiny.bundle(weights=True))


def test_hdf5_finds_the_payload_by_itself() -> None:
    assert GOLDEN.read_bytes()[USER_BLOCK:].startswith(b"\x89HDF\r\n\x1a\n")


def test_the_longest_name_fits_the_statement() -> None:
    # Characters beyond the basic plane take the most bytes when escaped.
    assert len(seal("\U0001f9ed" * MAX_NAME, b"", serial=2**63 - 1)) == USER_BLOCK
    for name in ("", "x" * (MAX_NAME + 1), "a\nb"):
        with pytest.raises(UsageError, match="name"):
            seal(name, b"")


def test_the_bytes_of_a_bundle_do_not_depend_on_the_process() -> None:
    code = "import tiny, hashlib; from fieldkit.bundle import write_bundle; "
    code += "print(hashlib.sha256(write_bundle(tiny.bundle(weights=True))).hexdigest())"
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.strip() == hashlib.sha256(write_bundle(tiny.bundle(weights=True))).hexdigest()


def test_the_runtimes_version_is_the_packages() -> None:
    assert f'\nversion = "{RUNTIME}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
