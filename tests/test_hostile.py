"""Hostile files of every kind in tests/hostile: each is refused, in time, in memory, and without a crash."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import handmade
import pytest
from conftest import Run
from hostile import all_cases

from fieldkit.bundle import save_bundle
from fieldkit.bundle.hdf5 import h5z

CASES = all_cases()
TOOL = Path(__file__).parents[1] / "tools" / "fuzz_reader.py"
SECONDS, MEBIBYTES = 5, 512


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the corpus runner, a real process, reports of every case."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, case in CASES.items():
        (folder / f"{name}.{'onnx' if case.program else 'h5'}").write_bytes(case.data)
    report = tmp_path_factory.mktemp("report") / "report.json"
    command = [sys.executable, "-W", "error", str(TOOL), "corpus", str(folder), "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return {each["case"]: each for each in json.loads(report.read_text("utf-8"))}


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_time_and_memory(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    case = CASES[name]
    outcome = outcomes[f"{name}.{'onnx' if case.program else 'h5'}"]
    assert (outcome["kind"], outcome["code"]) == ("refused", case.code), outcome
    assert re.search(case.reason, outcome["message"]), outcome["message"]
    assert outcome["seconds"] <= SECONDS
    assert outcome["mebibytes"] <= MEBIBYTES


@pytest.mark.parametrize("name", ["01 cut at 8192, resealed", "04 chunk that inflates to a GiB"])
def test_inspect_says_so_with_exit_code_four(name: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "hostile.h5").write_bytes(CASES[name].data)
    done = run("inspect", "hostile.h5")
    assert (done.returncode, done.stdout) == (4, "")
    assert re.search(CASES[name].reason, done.stderr)
    assert "Traceback" not in done.stderr


def test_train_refuses_a_bundle_whose_program_reaches_out(run: Run, tmp_path: Path) -> None:
    recipe = handmade.recipe()
    reaching = replace(recipe, programs=recipe.programs | {"train/full": CASES["06 outside, absolute"].data})
    save_bundle(handmade.bundle(reaching), tmp_path / "hostile.h5")
    done = run("train", "hostile.h5", "-o", "model.onnx")
    assert done.returncode == 4
    assert "other files" in done.stderr
    assert not (tmp_path / "model.onnx").exists()


def test_the_bomb_is_as_small_as_it_is_called() -> None:
    assert len(CASES["04 68 GB in a kilobyte"].data) < 4096 + 2048


@pytest.mark.parametrize(("door", "loaded"), [("import h5py", True), ("import fieldkit.bundle.hdf5", False)])
def test_hdf5_never_looks_for_plugins(door: str, loaded: bool, tmp_path: Path) -> None:
    # Any library will do: HDF5 loads each of the folder to ask whether it is the filter that it wants.
    shutil.copy(h5z.__file__, tmp_path / "libplanted.so")
    code = f"{door}; from h5py import h5z; assert not h5z.filter_avail(31999)"
    told = os.environ | {"HDF5_PLUGIN_PATH": str(tmp_path), "LD_DEBUG": "files"}
    # This process has it from fieldkit already.
    del told["HDF5_PLUGIN_PRELOAD"]
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, timeout=120, check=True)
    assert (b"libplanted.so" in done.stderr) == loaded
