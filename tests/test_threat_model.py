"""The page of threats names a test for each check, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from hostile import KINDS

from fieldkit.bundle.files import MAX_FILE
from fieldkit.field.programs import extents, program

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")


def test_every_check_has_a_test_that_exists() -> None:
    table = PAGE[PAGE.index("| check | stops | test |") :].partition("\n\n")[0].splitlines()[2:]
    assert len(table) > 20
    for row in table:
        found = re.search(r"`(tests/\w+\.py)::(test_\w+)`(?: \((\d\d)\))?", row)
        assert found, row
        tree = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
        assert found[2] in {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}, found[0]
        assert found[3] is None or any(kind.startswith(f"h{found[3]}") for kind in KINDS), found[0]


def test_the_page_gives_the_limits() -> None:
    for text in (
        f"size cap of {MAX_FILE // 2**20} MiB",
        f"at most {program.MAX_NODES:,} nodes",
        f"2^{extents.MAX_VALUES.bit_length() - 1} values of one tensor, 2^{extents.MAX_TOTAL.bit_length() - 1} of all",
    ):
        assert text in PAGE, text
