"""``fieldkit predict`` as a process."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run
from PIL import Image

from fieldkit.field.engine.training import train
from fieldkit.field.models import confidence, exporting
from fieldkit.field.models.prediction import Predictor

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


CALIBRATED = confidence.calibrate(MODEL, BUNDLE)


@pytest.fixture
def calibrated(folder: Path) -> Path:
    """The model knows its confidence, and the last image is between the classes."""
    (folder.parent / "model.onnx").write_bytes(CALIBRATED)
    Image.fromarray(np.full((4, 4), 120, np.uint8)).save(folder / "5.png")
    return folder


def test_answers_below_the_threshold_are_uncertain(run: Run, calibrated: Path) -> None:
    done = run("predict", "model.onnx", "photos")
    assert done.returncode == 0
    assert [line.endswith("\tuncertain") for line in done.stdout.splitlines()] == [False] * 5 + [True]
    assert done.stderr == "6 images answered, 1 of them uncertain\n"
    assert run("predict", "model.onnx", "photos", "--quiet").stderr == ""
    document = json.loads(run("predict", "model.onnx", "photos", "--json").stdout)
    assert 0 < document["threshold"] < 1
    assert [each["confident"] for each in document["images"]] == [True] * 5 + [False]
    assert "uncertain" not in run("predict", "model.onnx", "photos", "--threshold", 0).stdout
    assert run("predict", "model.onnx", "photos", "--threshold", 1).stdout.count("uncertain") == 6


def test_probabilities_are_calibrated(run: Run, calibrated: Path) -> None:
    shown = json.loads(run("predict", "model.onnx", "photos/0.png", "--json", "--top", 3).stdout)["images"][0]
    raw = Predictor.open(MODEL).predict(SAMPLES.images[:1])
    known = confidence.known(Predictor.open(CALIBRATED).metadata, "")
    assert known is not None
    assert known.temperature != pytest.approx(1, rel=0.05)
    expected = np.sort(confidence.scaled(raw, known.temperature)[0])[::-1]
    assert [each["probability"] for each in shown["top"]] == pytest.approx(list(expected), abs=1e-5)
    assert shown["probability"] == shown["top"][0]["probability"]


def test_several_classes_and_never_more_than_there_are(run: Run, folder: Path) -> None:
    cells = run("predict", "model.onnx", "photos/0.png", "--top", 2).stdout.rstrip().split("\t")
    assert len(cells) == 5
    assert float(cells[2]) > float(cells[4])
    assert len(run("predict", "model.onnx", "photos/0.png", "--top", 99).stdout.split("\t")) == 7


def test_images_of_another_size_are_resized_where_asked(run: Run, folder: Path) -> None:
    large = np.kron(SAMPLES.images[0, 0], np.ones((8, 8), np.uint8))
    Image.fromarray(large).save(folder / "0.png")
    Image.fromarray(np.pad(large, ((0, 0), (32, 32)))).save(folder / "wide.png")
    assert "--resize does it here" in run("predict", "model.onnx", "photos").stderr
    done = run("predict", "model.onnx", "photos/0.png", "photos/wide.png", "--resize", "crop")
    assert done.returncode == 0
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == [f"kind {SAMPLES.targets[0]}"] * 2


def test_stacks_of_images(run: Run, folder: Path) -> None:
    np.save(folder / "6.npy", SAMPLES.images)
    np.savez(folder / "7.npz", x_test=SAMPLES.images[:, 0], y_test=SAMPLES.targets)
    lines = run("predict", "model.onnx", "photos/6.npy", "photos/7.npz").stdout.splitlines()
    names = [f"photos/6.npy[{index}]" for index in range(5)] + [f"photos/7.npz:x_test[{index}]" for index in range(5)]
    assert [line.split("\t")[0] for line in lines] == names
    assert [line.split("\t")[1] for line in lines] == [f"kind {target}" for target in SAMPLES.targets] * 2


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_files_of_any_name_in_files_of_lines(run: Run, folder: Path, form: str) -> None:
    odd = os.fsdecode(b'a,"\xff\n\r\t;.png')
    (folder / "4.png").rename(folder / odd)
    (folder / "3.png").write_bytes(b"")
    done = run("predict", "model.onnx", "photos", "-o", f"answers.{form}", "--batch", 2)
    assert (done.returncode, done.stdout) == (7, "")
    assert f"answers.{form}: 4 images answered" in done.stderr
    text = (folder.parent / f"answers.{form}").read_bytes().decode("utf-8", "surrogateescape")
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    else:
        rows = [json.loads(line) for line in text.splitlines()]
    assert [row["file"] for row in rows] == [f"photos/{name}" for name in ("0.png", "1.png", "2.png", "3.png", odd)]
    assert [row["fault"] or None for row in rows] == [None, None, None, "the file is empty", None]
    # The same on stdout.
    assert run("predict", "model.onnx", "photos/0.png", "--format", form).stdout.splitlines()[-1] in text


def test_a_failed_run_leaves_the_former_answers(run: Run, folder: Path) -> None:
    (folder.parent / "answers.csv").write_text("former")
    assert run("predict", "model.onnx", "none.png", "-o", "answers.csv").returncode == 2
    assert (folder.parent / "answers.csv").read_text() == "former"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["answers.csv", "model.onnx", "photos"]
    assert run("predict", "model.onnx", "photos", "-o", "none/answers.csv").returncode == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "nothing to predict"),
        (["photos", "--idle", "1"], "--idle says when to stop watching"),
        (["photos", "--json", "--format", "csv"], "does not go with --format"),
        (["photos", "--json", "-o", "a.json"], "does not go with -o"),
        (["--watch", "photos", "--json"], "does not go with --watch"),
        (["--watch", "none"], "no folder to watch"),
        (["photos", "-o", "model.onnx"], "would replace the model"),
        (["photos", "-o", "photos/0.png"], "would replace an image"),
        (["photos", "--threshold", "2"], "threshold"),
        (["photos", "--resize", "x"], "stretch"),
    ],
)
def test_options_that_make_no_sense(run: Run, folder: Path, options: list[str], reason: str) -> None:
    done = run("predict", "model.onnx", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr


def test_many_faults_are_counted_and_the_first_are_listed(run: Run, folder: Path, tmp_path: Path) -> None:
    for index in range(1200):
        (folder / f"x{index:04d}.png").touch()
    done = run("predict", "model.onnx", "photos")
    assert (done.returncode, len(done.stdout.splitlines())) == (7, 5)
    assert "1200 of 1205 files" in done.stderr
    assert done.stderr.count("the file is empty") == 1000
    assert "... and 200 more" in done.stderr


def test_a_model_that_gives_no_numbers_is_said(run: Run, folder: Path) -> None:
    trained = train(BUNDLE, threads=1)
    broken = {name: np.full_like(values, np.nan) for name, values in trained.weights.items()}
    metadata = exporting.describe(trained, BUNDLE.manifest, "")
    (folder.parent / "model.onnx").write_bytes(
        exporting.complete_model(trained.recipe.programs["predict"], broken, metadata)
    )
    done = run("predict", "model.onnx", "photos")
    assert (done.returncode, done.stdout) == (4, "")
    assert "no numbers" in done.stderr


def test_a_bundle_in_the_place_of_a_model_is_named(run: Run, bundle_file: Path, folder: Path) -> None:
    done = run("predict", bundle_file, folder)
    assert (done.returncode, done.stdout) == (4, "")
    assert "not a model that fieldkit wrote; found a bundle" in done.stderr
    assert "remedy: train one" in done.stderr
