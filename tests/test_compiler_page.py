"""docs/program.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fieldkit.field.programs.program import ALLOWED_OPERATORS, MAX_IR, MAX_OPSET

PAGE = (Path(__file__).parents[1] / "docs" / "program.md").read_text(encoding="utf-8")


def listed(name: str) -> list[str]:
    """The words of a list on the page."""
    return re.findall(r"`(\w+)`", PAGE.split(f"<!-- {name}:")[1].split(f"<!-- end of {name} -->")[0].split("-->")[1])


def test_the_page_lists_the_operators_that_a_device_allows():
    assert listed("operators") == sorted(ALLOWED_OPERATORS)


@pytest.mark.hq
def test_the_page_lists_the_operators_that_have_a_rule():
    pytest.importorskip("torch")
    from fieldkit.hq.compiler.rules import RULES

    assert listed("rules") == sorted({name.split(".")[1] for name in RULES})


def test_the_page_names_the_limits_of_versions():
    assert f"opset {MAX_OPSET} or lower, IR version {MAX_IR} or lower" in PAGE
