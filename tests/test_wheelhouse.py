"""tools/wheelhouse: what a target needs is found, pinned, and installed without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "wheelhouse"
OFFLINE = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONSTRAINT": ""}


@pytest.fixture(scope="module")
def wheelhouse() -> Iterator[ModuleType]:
    """The script as a module."""
    loader = SourceFileLoader("wheelhouse", str(SCRIPT))
    spec = spec_from_loader("wheelhouse", loader)
    assert spec is not None
    module, written = module_from_spec(spec), sys.dont_write_bytecode
    sys.modules["wheelhouse"], sys.dont_write_bytecode = module, True
    loader.exec_module(module)
    sys.dont_write_bytecode = written
    yield module
    del sys.modules["wheelhouse"]


def wheel(folder: Path, name: str, version: str = "1.0", tag: str = "py3-none-any", needs: Sequence[str] = ()) -> Path:
    """A wheel with one module, made by hand."""
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{about}/METADATA": metadata + "".join(f"Requires-Dist: {each}\n" for each in needs),
        f"{about}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = io.StringIO()
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.write(f"{path},sha256={digest},{len(text)}\n")
    record.write(f"{about}/RECORD,,\n")
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in (files | {f"{about}/RECORD": record.getvalue()}).items():
            archive.writestr(inner, text)
    return path


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of the registry."""
    folder = tmp_path / "store"
    folder.mkdir()
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def own(tmp_path: Path, *needs: str) -> Path:
    (tmp_path / "own").mkdir()
    return wheel(tmp_path / "own", "fieldkit", "0.1.0", needs=needs)


def test_conditions_and_files_are_the_targets_not_ours(wheelhouse: ModuleType, store: Path, tmp_path: Path) -> None:
    needs = ['old; python_version < "3.11"', 'desk; platform_machine == "x86_64"', 'arm; platform_machine == "aarch64"']
    made = own(tmp_path, "array", *needs)
    for name in ("old", "desk", "arm"):
        wheel(store, name)
    wheel(store, "array", "1.0", "cp310-cp310-manylinux_2_28_aarch64")
    wheel(store, "array", "1.0", "cp312-cp312-manylinux_2_28_aarch64")
    # Newer, but not for a machine of that age.
    wheel(store, "array", "2.0", "cp310-cp310-manylinux_2_36_aarch64")
    wheel(store, "array", "3.0", f"cp{sys.version_info[0]}{sys.version_info[1]}-none-linux_x86_64")
    found = {
        name: [each.file for each in wheelhouse.resolve(wheelhouse.TARGETS[name], made, None, tmp_path)]
        for name in ("jetpack6", "jetpack7")
    }
    for name, python, more in (("jetpack6", "cp310", ["old-1.0-py3-none-any.whl"]), ("jetpack7", "cp312", [])):
        array = f"array-1.0-{python}-{python}-manylinux_2_28_aarch64.whl"
        assert found[name] == ["arm-1.0-py3-none-any.whl", array, made.name, *more]


def test_a_folder_is_installed_and_changes_are_noticed(wheelhouse: ModuleType, store: Path, tmp_path: Path) -> None:
    made = own(tmp_path, "Some_Thing>=1")
    wheel(store, "some_thing", "1.0", needs=["leaf"])
    wheel(store, "some_thing", "2.0", needs=["leaf"])
    wheel(store, "leaf")
    target, folder = wheelhouse.TARGETS["this"], tmp_path / "house"
    wheels = wheelhouse.resolve(target, made, None, tmp_path)
    wheelhouse.fill(folder, target, made, wheels)
    again = tmp_path / "again"
    wheelhouse.fill(again, target, made, wheels)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in again.iterdir()
    }
    assert len(list(folder.iterdir())) == 5
    for path in store.iterdir():
        path.unlink()
    (command,) = re.findall(r"python3 (-m pip install .*)", (folder / "README.md").read_text())
    assert install(folder, command, tmp_path / "first").returncode == 0
    assert (tmp_path / "first" / "some_thing.py").read_text() == "version = '2.0'\n"
    assert (tmp_path / "first" / "leaf.py").exists()
    damaged = folder / "leaf-1.0-py3-none-any.whl"
    wheel(folder, "leaf", needs=["nothing; python_version < '3'"])
    assert damaged.read_bytes() != (again / damaged.name).read_bytes()
    refused = install(folder, command, tmp_path / "second")
    assert refused.returncode != 0
    assert "HASHES" in refused.stderr


def install(folder: Path, command: str, target: Path) -> subprocess.CompletedProcess[str]:
    """Carry out the README's command in the folder, without a network, into a folder of its own."""
    words = [sys.executable, *command.split(), "--target", str(target)]
    return subprocess.run(words, cwd=folder, env=os.environ | OFFLINE, capture_output=True, text=True)


def test_releases_of_an_older_folder_are_taken_again(wheelhouse: ModuleType, store: Path, tmp_path: Path) -> None:
    made = own(tmp_path, "some_thing")
    for version in ("1.0", "2.0"):
        wheel(store, "some_thing", version)
    like = tmp_path / "requirements.txt"
    like.write_text("fieldkit==0.0.1 \\\n    --hash=sha256:00\nsome-thing==1.0 \\\n    --hash=sha256:11\n")
    found = wheelhouse.resolve(wheelhouse.TARGETS["this"], made, like, tmp_path)
    assert [each.version for each in found] == ["0.1.0", "1.0"]


def test_what_a_target_lacks_is_said_and_nothing_is_left(wheelhouse: ModuleType, store: Path, tmp_path: Path) -> None:
    made = own(tmp_path, "array")
    wheel(store, "array", "1.0", "cp310-cp310-manylinux_2_28_x86_64")
    with pytest.raises(wheelhouse.WheelhouseError, match="array"):
        wheelhouse.resolve(wheelhouse.TARGETS["jetpack6"], made, None, tmp_path)
    missing = [wheelhouse.Wheel("array", "1.0", "array-1.0-py3-none-any.whl")]
    with pytest.raises(wheelhouse.WheelhouseError):
        wheelhouse.fill(tmp_path / "house", wheelhouse.TARGETS["jetpack6"], made, missing)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("own", "store")) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["this"], "name a folder, or take --list"),
        (["this", ".", "--list"], "name a folder, or take --list"),
        (["this", "."], "name a new folder"),
        (["this", "none/house"], "its folder does not exist"),
        (["this", "house", "--like", "none.txt"], "none.txt: no such file"),
        (["mars", "house"], "invalid choice: 'mars'"),
    ],
)
def test_calls_that_make_no_sense(tmp_path: Path, arguments: list[str], reason: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def registry(tmp_path: Path) -> None:
    """Skips a test where pip reaches no registry."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", tmp_path / "try", "click"]
    if subprocess.run(pip, capture_output=True).returncode:
        pytest.skip("pip reaches no package registry")


@pytest.mark.registry
@pytest.mark.usefixtures("registry")
def test_this_machine_for_real(tmp_path: Path) -> None:
    """fieldkit's own wheels, downloaded, and installed into a new environment without a network."""
    made = subprocess.run([sys.executable, SCRIPT, "this", tmp_path / "house"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "new"], check=True)
    python = tmp_path / "new" / "bin" / "python"
    command = ["-m", "pip", "install", "--no-index", "--find-links", ".", "--require-hashes", "-r", "requirements.txt"]
    installed = subprocess.run(
        [python, *command], cwd=tmp_path / "house", env=os.environ | OFFLINE, capture_output=True, text=True
    )
    assert installed.returncode == 0, installed.stderr
    assert subprocess.run([python, "-m", "pip", "check"], capture_output=True).returncode == 0
    bundle = SCRIPT.parents[1] / "bundles" / "mnist-1.h5"
    done = subprocess.run(
        [python, "-m", "fieldkit", "inspect", bundle, "--allow-unsigned"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.registry
@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("target", ["jetpack6", "jetpack7"])
def test_every_wheel_exists_for_a_jetson(target: str) -> None:
    done = subprocess.run([sys.executable, SCRIPT, target, "--list"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {line.split("-")[0] for line in done.stdout.splitlines()}
    assert {"fieldkit", "click", "cryptography", "h5py", "numpy", "onnxruntime", "pillow"} <= names
    assert all(line.endswith(("-any.whl", "aarch64.whl")) for line in done.stdout.splitlines())
