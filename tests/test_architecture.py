"""Imports run one way, and the light side is light: ``errors < bundle < tasks < field < hq < cli``."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fieldkit"
ORDER = ("errors", "bundle", "tasks", "field", "hq", "cli")
LIGHT = ("errors", "bundle", "tasks", "field")
# The field's own packages, each of which imports those before it alone.
FIELD = (
    "programs", "trust", "images", "engine", "datasets", "device", "inspection", "endurance", "models", "compression",
    "answers", "adaptation", "measurement", "learning", "selection",
)  # fmt: skip
# What may be imported where; whatever is not named here may be imported anywhere.
DOORS = {
    "torch": ("hq/",),
    "onnx": ("hq/",),
    "sklearn": ("hq/",),
    "zopfli": ("hq/",),
    "click": ("cli/",),
    "onnxruntime": ("field/engine/session.py",),
    "h5py": ("bundle/hdf5.py",),
    "cryptography": ("bundle/keys.py", "bundle/signatures.py", "bundle/encryption.py"),
    "pyrage": ("bundle/encryption.py",),
}
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports(tree: ast.AST, path: str) -> Iterator[tuple[str, int]]:
    """Every imported module's full name, those inside functions too, and its line."""
    folder = ["fieldkit", *path.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, node.lineno
            # ``from fieldkit import hq`` names the part only here.
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names if module == "fieldkit")


def violations(source: str, path: str) -> list[str]:
    """What the source of ``path`` (relative to the package) may not do."""
    tree, part = ast.parse(source), path.split("/")[0].removesuffix(".py")
    found = []
    for name, line in imports(tree, path):
        top, _, rest = name.partition(".")
        if top in DOORS and not path.startswith(DOORS[top]):
            found.append(f"{path}:{line}: imports {top}, which only {' and '.join(DOORS[top])} may")
        target = rest.split(".")[0]
        if top == "fieldkit" and target in ORDER and part in ORDER and ORDER.index(target) > ORDER.index(part):
            found.append(f"{path}:{line}: {part} imports {target}")
        room, wanted = path.split("/")[1:2], rest.split(".")[1:2]
        if part == target == "field" and room != wanted and wanted[0] in FIELD[FIELD.index(room[0]) :]:
            found.append(f"{path}:{line}: field/{room[0]} imports field/{wanted[0]}")
    for node in ast.walk(tree):
        if part != "cli" and isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("print", "exit", "quit", "sys.exit", "os._exit"):
                found.append(f"{path}:{node.lineno}: {called}() outside of cli")
        if isinstance(node, ast.ExceptHandler) and (
            node.type is None or "Exception" in ast.unparse(node.type).split(".")
        ):
            found.append(f"{path}:{node.lineno}: a broad except")
    return found


@pytest.mark.parametrize("path", FILES)
def test_a_module_keeps_the_rules(path: str) -> None:
    assert violations((PACKAGE / path).read_text(encoding="utf-8"), path) == []


@pytest.mark.parametrize(
    ("path", "source", "reason"),
    [
        ("bundle/a.py", "from fieldkit.field import training", "bundle imports field"),
        ("bundle/a.py", "from fieldkit import hq", "bundle imports hq"),
        ("bundle/a.py", "from ..field import training", "bundle imports field"),
        ("tasks/a.py", "def f():\n    import fieldkit.cli.main", "tasks imports cli"),
        ("errors.py", "import fieldkit.bundle", "errors imports bundle"),
        ("field/images/a.py", "from fieldkit.field.models import b", "field/images imports field/models"),
        ("field/images/a.py", "import torch.nn", "imports torch"),
        ("field/images/a.py", "from onnx import helper", "imports onnx"),
        ("field/images/a.py", "import onnxruntime", "imports onnxruntime"),
        ("bundle/reader.py", "import h5py", "imports h5py"),
        ("hq/a.py", "import click", "imports click"),
        ("hq/a.py", "print(1)", r"print() outside"),
        ("field/images/a.py", "import sys\nsys.exit(1)", "sys.exit() outside"),
        ("cli/a.py", "try:\n    f()\nexcept Exception:\n    g()", "broad"),
        ("cli/a.py", "try:\n    f()\nexcept:\n    g()", "broad"),
    ],
)
def test_the_rules_can_fail(path: str, source: str, reason: str) -> None:
    assert reason in "\n".join(violations(source, path))


def test_every_package_of_the_field_has_its_place() -> None:
    assert {path.split("/")[1] for path in FILES if path.startswith("field/") and path.count("/") > 1} == set(FIELD)


def test_the_rules_allow_what_is_meant() -> None:
    assert violations("from fieldkit.field.images import b", "field/models/a.py") == []
    assert violations("import onnxruntime\nfrom fieldkit.bundle import reader", "field/engine/session.py") == []
    assert violations("import torch\nfrom fieldkit.field import training", "hq/a.py") == []
    assert violations("from fieldkit.bundle import Bundle", "__init__.py") == []


def loaded(names: list[str]) -> set[str]:
    """The top-level modules that a fresh interpreter holds after importing these."""
    code = "import sys\n" + "".join(f"import {name}\n" for name in names)
    code += "print('\\n'.join({name.split('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def modules(parts: tuple[str, ...]) -> list[str]:
    chosen = [path for path in FILES if path.split("/")[0].removesuffix(".py") in parts]
    return [
        "fieldkit",
        *(f"fieldkit.{path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}" for path in chosen),
    ]


HEAVY = {"torch", "onnx", "onnxscript", "scipy", "sklearn", "click"}


def test_the_light_side_loads_nothing_heavy() -> None:
    names = modules(LIGHT)
    assert {"fieldkit", "fieldkit.bundle", "fieldkit.tasks", "fieldkit.field"} <= set(names)
    found = loaded(names)
    assert {"fieldkit", "numpy"} <= found
    assert not found & HEAVY


def test_the_light_test_can_fail() -> None:
    pytest.importorskip("click")
    assert "click" in loaded([*modules(("errors",)), "click"]) & HEAVY


def test_fieldkit_alone_loads_next_to_nothing() -> None:
    assert not loaded(["fieldkit"]) & (HEAVY | {"numpy", "h5py", "onnxruntime", "PIL"})
