"""``fieldkit test`` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run

from fieldkit.field.engine.training import train
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor

BUNDLE = handmade.bundle()
MODEL = exporting.export(train(BUNDLE, threads=1), BUNDLE)
SAMPLES = handmade.images(31, seed=6)


def write(path: Path, classes: list[str], split: str = "test", **changed: np.ndarray) -> Path:
    arrays = {"x_train": SAMPLES.images[:, 0], "y_train": SAMPLES.targets}
    if split == "test":
        arrays |= {"x_test": SAMPLES.images[:, 0], "y_test": SAMPLES.targets}
    np.savez(path, classes=np.array(classes), **(arrays | changed))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(MODEL)
    return path


def test_the_score_and_a_line_per_class(run: Run, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "data.npz", ["kind 0", "kind 1", "kind 2"])
    done = run("test", model, "data.npz")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("100.00 % of 31 images right (data.npz, test split)\n\nclass ")
    assert done.stdout.splitlines()[3].split() == ["kind", "0", "11", "11", "100.0", "%", "100.0", "%"]


def test_json_and_classes_joined_by_name(run: Run, model: Path, tmp_path: Path) -> None:
    # Another order of names: label 0 of the data is the model's class 2.
    write(tmp_path / "data.npz", ["kind 2", "kind 0", "kind 1"], split="train")
    done = run("test", "model.onnx", "data.npz", "--json")
    document = json.loads(done.stdout)
    assert (document["schema"], document["split"], document["count"]) == ("fieldkit.test/1", "train", 31)
    guesses = Predictor.open(MODEL).predict(SAMPLES.images).argmax(1)
    truth = np.array([2, 0, 1])[SAMPLES.targets]
    assert document["accuracy"] == pytest.approx((guesses == truth).mean())
    assert [each["support"] for each in document["classes"]] == [10, 10, 11]
    assert [each["name"] for each in document["classes"]] == ["kind 0", "kind 1", "kind 2"]


def test_data_that_does_not_suit_the_model_is_named_at_once(run: Run, model: Path, tmp_path: Path) -> None:
    wide = np.zeros((31, 5, 4), np.uint16)
    write(tmp_path / "data.npz", ["kind 0", "cat", "dog"], x_train=wide, x_test=wide)
    done = run("test", model, "data.npz")
    assert done.returncode == 7
    assert done.stdout == ""
    for fault in ("pixels are uint16, the model takes uint8", "4x5 pixels", "class 'cat' has 10", "class 'dog' has 10"):
        assert fault in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("none.onnx", "data.npz"), 2, "cannot read the model"),
        (("data.npz", "data.npz"), 4, "no ONNX model"),
        (("model.onnx", "none.npz"), 2, "none.npz"),
        (("model.onnx", "model.onnx"), 7, "unknown kind of file"),
    ],
)
def test_bad_calls(run: Run, model: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    write(tmp_path / "data.npz", ["kind 0", "kind 1", "kind 2"])
    done = run("test", *arguments)
    assert done.returncode == code
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr
