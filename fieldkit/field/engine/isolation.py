"""How to start a Python process that imports what this one does, and nothing from where it happens to stand."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fieldkit

# Isolated from PYTHON* variables, the user's site and the current folder, from where any file could pose as a module.
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {} import serve; serve()"


def isolated(module: str) -> list[str]:
    """The command that runs ``serve()`` of a module of fieldkit in a process of its own."""
    home = str(Path(fieldkit.__file__).parents[1])
    paths = [home, *(each for each in sys.path if each not in ("", home, str(Path.cwd())))]
    return [sys.executable, "-I", "-S", "-c", _START.format(module), json.dumps(paths)]
