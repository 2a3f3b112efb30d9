"""The code blocks of README.md: found, checked and run.

    python3 tests/readme.py field --into FOLDER     run the blocks with this marker in a new copy of the repository

Before each bash or python block stands a comment that says by whom it is run, such as ``<!-- run: test -->``; the
markers are in ``MARKERS``.  Needs nothing but Python, so that it can set up environments.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"

# marker: who runs such a block.
MARKERS = {
    "test": "pytest, with the field side alone",
    "test-hq": "pytest, with the extra fieldkit[hq]",
    "field": ".ci/run: sets the field side up",
    "full": ".ci/run: sets everything up",
}
CI_MARKERS = ("field", "full")
LANGUAGES = ("bash", "python")
NOT_COPIED = (".git", ".venv*", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "build", "dist")

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*(\S*)")
_MARKER = re.compile(r"^<!-- run: (\S+) -->$")


class ReadmeError(Exception):
    """A block that nobody would run, or that failed when it was."""


@dataclass(frozen=True)
class Block:
    """One block to run; ``line`` is that of its fence, from 1."""

    line: int
    language: str
    marker: str
    code: str

    def command(self) -> list[str]:
        """The process that runs it; a bash block stops at its first failure."""
        if self.language == "python":
            return ["python", "-W", "error", "-c", self.code]
        return ["bash", "-euo", "pipefail", "-c", self.code]


def blocks(text: str) -> list[Block]:
    """Every bash and python block of a Markdown text, in order; ``text`` blocks are for reading only.

    Raises ReadmeError that lists every block without a known marker, of another language, or not closed.
    """
    found, faults = [], []
    for line, language, before, code in fences(text.splitlines()):
        marker = _MARKER.match(before)
        if code is None:
            faults.append(f"line {line}: the block is not closed")
        elif language == "text":
            continue
        elif language not in LANGUAGES:
            faults.append(f"line {line}: a block in {language or 'no language'}, not bash, python or text")
        elif marker is None:
            faults.append(f"line {line}: no <!-- run: MARKER --> before the block")
        elif marker[1] not in MARKERS:
            faults.append(f"line {line}: unknown marker {marker[1]}, not one of {', '.join(MARKERS)}")
        else:
            found.append(Block(line, language, marker[1], code))
    if faults:
        raise ReadmeError("\n".join(faults))
    return found


def fences(lines: list[str]) -> Iterator[tuple[int, str, str, str | None]]:
    """(line, language, the line with text before it, code) of each block; the code of an open block is None.

    An indented block counts as one in no language.
    """
    before, opened, fence, start = "", "", "", 0
    for number, line in enumerate(lines):
        matched = _FENCE.match(line)
        if fence:
            if matched and matched[1].startswith(fence) and not matched[2]:
                yield start + 1, opened, before, "\n".join(lines[start + 1 : number]) + "\n"
                before, fence = "", ""
        elif matched:
            fence, opened, start = matched[1], matched[2], number
        elif line.startswith(("    ", "\t")) and number and not lines[number - 1].strip():
            yield number + 1, "", before, line.strip()
        elif line.strip():
            before = line.strip()
    if fence:
        yield start + 1, opened, before, None


def copy_repository(target: Path) -> None:
    """What a clone holds, uncommitted changes included, in a new folder."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*NOT_COPIED))


def run_block(block: Block, folder: Path, *, capture: bool, timeout: float | None = None) -> None:
    """Run one block in ``folder``, this interpreter's commands first on the path.

    Raises ReadmeError with the block's output, where that was captured, if it fails.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        block.command(),
        cwd=folder,
        env=os.environ | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.STDOUT if capture else None,
        text=True,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise ReadmeError(f"README.md:{block.line}: exit code {done.returncode} of\n{block.code}{done.stdout or ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("marker", choices=MARKERS)
    parser.add_argument("--into", type=Path, required=True, help="folder to make and to run in")
    chosen = parser.parse_args()
    try:
        marked = [block for block in blocks(README.read_text(encoding="utf-8")) if block.marker == chosen.marker]
        copy_repository(chosen.into)
        for block in marked:
            print(f"README.md:{block.line}\n{block.code}", end="", flush=True)
            run_block(block, chosen.into, capture=False)
    except ReadmeError as fault:
        sys.exit(str(fault))
    if not marked:
        sys.exit(f"README.md has no block with the marker {chosen.marker}")


if __name__ == "__main__":
    main()
