"""``fieldkit predict`` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run
from PIL import Image

from fieldkit.field import exporting
from fieldkit.field.training import train

BUNDLE = handmade.bundle()
MODEL = exporting.export(train(BUNDLE, threads=1), BUNDLE)
SAMPLES = handmade.images(5, seed=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(SAMPLES.images):
        Image.fromarray(image[0]).save(folder / f"{index}.png")
    return folder


def test_one_line_per_file(run: Run, folder: Path) -> None:
    done = run("predict", "model.onnx", "photos", "photos/0.png")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [f"photos/{index}.png" for index in range(5)]
    assert [line[1] for line in lines] == [f"kind {target}" for target in SAMPLES.targets]
    assert all(0.3 < float(line[2]) <= 1 for line in lines)


def test_bad_files_are_listed_at_the_end_and_do_not_stop_the_run(run: Run, folder: Path) -> None:
    (folder / "1a.png").write_bytes(b"\x89PNG but not really")
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(folder / "2a.png")
    done = run("predict", "model.onnx", "photos", "none.png")
    assert done.returncode == 7
    assert len(done.stdout.splitlines()) == 5
    assert "3 of 8 files" in done.stderr
    for fault in ("photos/1a.png: unreadable", "photos/2a.png: 9x7 pixels", "none.png: no such file"):
        assert fault in done.stderr
    remedy = done.stderr.partition("remedy: ")[2]
    for advice in ("convert it to", "model.onnx takes 4x4 pixels with 1 band, uint8: crop or resize", "check the path"):
        assert remedy.count(advice) == 1
    document = json.loads(run("predict", "model.onnx", "photos", "--json").stdout)
    assert document["schema"] == "fieldkit.predict/1"
    assert [each["fault"] is None for each in document["images"]] == [True, True, False, True, False, True, True]
    assert document["images"][0]["class"] == "kind 0"
    assert document["images"][2]["probability"] is None


def test_a_missing_file_among_others_is_no_matter_of_size(run: Run, folder: Path) -> None:
    done = run("predict", "model.onnx", "photos/0.png", "none.png", "nor this.png")
    assert done.returncode == 7
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr.splitlines()[1:] == [
        "  - none.png: no such file",
        "  - nor this.png: no such file",
        "  remedy: check the path",
    ]


@pytest.mark.parametrize("names", [["none.png"], ["none.png", "x" * 300]])
def test_nothing_but_missing_files_is_a_wrong_call(run: Run, folder: Path, names: list[str]) -> None:
    done = run("predict", "model.onnx", *names)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {', '.join(names)}: no such file\n  remedy: check the path\n"


def test_what_is_no_model_is_refused(run: Run, folder: Path) -> None:
    done = run("predict", "photos/0.png", "photos")
    assert done.returncode == 4
    assert "photos/0.png" in done.stderr
    assert run("predict", "none.onnx", "photos").returncode == 2
