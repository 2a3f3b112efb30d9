"""Every block of README.md is run: the quick ones here, the set-up by ``.ci/run``; see ``readme.py``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import readme
from readme import Block, ReadmeError, blocks, copy_repository, run_block

TEXT = readme.README.read_text(encoding="utf-8")
SECONDS = 600


def run_marked(text: str, marker: str, folder: Path) -> int:
    """Run the blocks of one marker in order, in one copy of the repository; how many there were."""
    copy_repository(folder)
    marked = [block for block in blocks(text) if block.marker == marker]
    for block in marked:
        run_block(block, folder, capture=True, timeout=SECONDS)
    return len(marked)


def test_the_field_side_as_the_readme_shows_it(tmp_path: Path) -> None:
    assert run_marked(TEXT, "test", tmp_path / "clone") > 0


@pytest.mark.hq
def test_headquarters_as_the_readme_shows_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert run_marked(TEXT, "test-hq", tmp_path / "clone") > 0


def test_the_set_up_is_run_by_ci() -> None:
    script = (readme.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    marked = {block.marker for block in blocks(TEXT)}
    assert marked == set(readme.MARKERS)
    for marker in readme.CI_MARKERS:
        assert f"tests/readme.py {marker} --into" in script


def test_links_lead_somewhere() -> None:
    targets = re.findall(r'(?:\]\(|src=")([^)"#]+)', TEXT)
    assert targets
    broken = [each for each in targets if "://" not in each and not (readme.ROOT / each).exists()]
    assert broken == []


def marked(marker: str, language: str, code: str) -> str:
    return f"Words.\n\n<!-- run: {marker} -->\n```{language}\n{code}\n```\n"


@pytest.mark.parametrize(
    ("language", "code", "says"),
    [
        ("bash", "false\ntrue", "exit code 1"),
        ("bash", "false | true", "exit code 1"),
        ("bash", "fieldkit train bundles/none.h5", "no such bundle"),
        ("python", "assert 1 == 2", "AssertionError"),
        ("python", "import warnings\nwarnings.warn('old')", "UserWarning"),
    ],
)
def test_a_failing_block_fails_the_test(language: str, code: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ReadmeError, match=r"README\.md:4: exit code") as caught:
        run_marked(marked("test", language, code), "test", tmp_path / "clone")
    assert says in str(caught.value)


def test_blocks_share_a_folder_that_is_a_copy(tmp_path: Path) -> None:
    text = marked("test", "bash", "test -f pyproject.toml\necho 1 > made") + marked("test", "python", "open('made')")
    assert run_marked(text, "test", tmp_path / "clone") == 2
    assert (tmp_path / "clone" / "made").exists()
    assert not (tmp_path / "clone" / ".git").exists()
    assert not (readme.ROOT / "made").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```bash\nls\n```", "line 1: no <!-- run: MARKER -->"),
        ("<!-- run: test -->\nWords.\n```bash\nls\n```", "line 3: no <!-- run: MARKER -->"),
        (marked("test", "bash", "ls") + "```python\n1\n```", "line 7: no <!-- run: MARKER -->"),
        (marked("someday", "bash", "ls"), "line 4: unknown marker someday"),
        (marked("test", "sh", "ls"), "line 4: a block in sh"),
        ("```\nls\n```", "line 1: a block in no language"),
        ("Words.\n\n    ls\n", "line 3: a block in no language"),
        ("<!-- run: test -->\n```bash\nls\n", "line 2: the block is not closed"),
    ],
)
def test_a_block_that_nobody_runs_is_a_fault(text: str, says: str) -> None:
    with pytest.raises(ReadmeError, match=re.escape(says)):
        blocks(text)


def test_what_is_for_reading_needs_no_marker() -> None:
    tree = "````text\n```bash\nls\n```\n````\n"
    code = marked("field", "bash", "echo '# ~~~'\n\n    ls")
    assert blocks(tree + code) == [Block(9, "bash", "field", "echo '# ~~~'\n\n    ls\n")]
