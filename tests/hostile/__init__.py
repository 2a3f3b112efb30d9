"""Files that nobody should send, made when the tests run: one numbered module for each kind.

Each module has ``cases()``: name to a ``Case``.  tests/test_hostile.py writes them to a folder and lets
tools/fuzz_reader.py read them, each in a process of its own with limits.
"""

from __future__ import annotations

from importlib import import_module

from hostile.making import Case

KINDS = ("h01_containers", "h02_links", "h03_types", "h04_storage", "h05_documents", "h06_programs", "h07_sizes")


def all_cases() -> dict[str, Case]:
    """Every case by its kind's number and its name."""
    return {
        f"{kind[1:3]} {name}": case for kind in KINDS for name, case in import_module(f"hostile.{kind}").cases().items()
    }
