"""docs/program.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from fieldkit.field.program import ALLOWED_OPERATORS, MAX_IR, MAX_OPSET

PAGE = (Path(__file__).parents[1] / "docs" / "program.md").read_text(encoding="utf-8")


def test_the_page_lists_the_operators_that_a_device_allows():
    listed = PAGE.split("<!-- operators:")[1].split("<!-- end of operators -->")[0].split("-->")[1]
    assert re.findall(r"`(\w+)`", listed) == sorted(ALLOWED_OPERATORS)


def test_the_page_names_the_limits_of_versions():
    assert f"opset {MAX_OPSET} or lower, IR version {MAX_IR} or lower" in PAGE
