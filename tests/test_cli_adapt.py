"""``fieldkit adapt`` as its users call it: a process, files, and what it says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
from PIL import Image

from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.writer import save_bundle
from fieldkit.field.endurance.checkpoint import state_folder
from fieldkit.field.engine.training import train
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SHAPE, KNOWN, ALL = (1, 5, 5), 3, 5


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A folder with a bundle of three classes and room for two more, its model, and ten samples of five classes."""
    recipe = handmade.recipe(shape=SHAPE, classes=ALL, spare=2, batch=12, unlabelled=True)
    samples = handmade.images(10 * ALL, SHAPE, ALL, seed=1)
    old = samples.take(np.flatnonzero(samples.targets < KNOWN))
    made = handmade.bundle(recipe, classes=KNOWN, shape=SHAPE)
    bundle = save_bundle(
        replace(
            made,
            manifest=replace(made.manifest, spare_classes=2),
            images=Pixels.encode(old.images.astype(np.float32), "uint8"),
            labels=np.eye(KNOWN, dtype=np.float16)[old.targets],
            probe=old,
        ),
        tmp_path / "three.h5",
    )
    exporting.save_model(tmp_path / "model.onnx", train(bundle), bundle)
    unseen = handmade.images(10 * ALL, SHAPE, ALL, seed=2)
    for index, (image, target) in enumerate(zip(unseen.images, unseen.targets, strict=True)):
        folder = tmp_path / "mine" / f"kind {target}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{index}.png")
    return tmp_path


def test_new_classes_from_folders(run: Run, device: Path) -> None:
    before = (device / "model.onnx").read_bytes()
    result = run("adapt", "model.onnx", "three.h5", "--data", "mine", "--allow-unsigned")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("model-adapted.onnx: linear, last layer solved in ")
    assert lines[1] == "new classes: kind 3, kind 4"
    rows = [line.split() for line in lines[4:]]
    assert rows[0][:4] == ["local", "hold-out", "known", "6"]
    assert rows[1] == ["local", "hold-out", "new", "4", "0.0", "%", "100.0", "%"]
    assert rows[2][:3] == ["probe", "known", "15"]
    assert lines[-1] == "15 other images of the probe were learnt from"
    assert Predictor.open(device / "model-adapted.onnx").classes == tuple(f"kind {index}" for index in range(ALL))
    assert (device / "model.onnx").read_bytes() == before
    assert not state_folder(device / "model-adapted.onnx").exists()


def test_a_probe_can_be_kept_for_measuring(run: Run, device: Path) -> None:
    result = run("adapt", "model.onnx", "three.h5", "--data", "mine", "--keep-probe", "--allow-unsigned", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["probe"] == {"learnt": 0, "measured": 30}


def test_one_json_document_says_the_same(run: Run, device: Path) -> None:
    result = run(
        "adapt",
        "model.onnx",
        "three.h5",
        "--data",
        "mine",
        "-o",
        "a.onnx",
        "--json",
        "--quiet",
        "--scope",
        "full",
        "--steps",
        30,
    )
    document = json.loads(result.stdout)
    assert result.stderr == ""
    assert document["schema"] == "fieldkit.adapt/1"
    assert (document["file"], document["steps"], document["resumed"]) == ("a.onnx", 30, None)
    assert document["new"] == ["kind 3", "kind 4"]
    assert document["samples"] == {"train": 40, "held_out": 10}
    assert [each["where"] for each in document["comparisons"]] == ["local hold-out", "probe"]
    assert document["comparisons"][0]["after"]["new"] == 1.0
    assert document["comparisons"][1]["after"]["new"] is None
    assert document["bytes"] == (device / "a.onnx").stat().st_size
    scored = json.loads(run("test", "a.onnx", "mine", "--json").stdout)
    assert scored["accuracy"] > 0.9


def test_a_shifted_sensor_without_labels(run: Run, device: Path) -> None:
    result = run("adapt", "model.onnx", "three.h5", "--unlabelled", "mine", "-o", "u.onnx")
    assert result.returncode == 0, result.stderr
    assert "50 images without labels: entropy of the predictions" in result.stdout
    assert Predictor.open(device / "u.onnx").classes == ("kind 0", "kind 1", "kind 2")


def test_a_change_that_costs_too_much_is_refused_and_nothing_is_written(run: Run, device: Path) -> None:
    files = sorted(device.iterdir())
    noise = np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)
    np.save(device / "noise.npy", noise)
    result = run(
        "adapt", "model.onnx", "three.h5", "--unlabelled", "noise.npy", "--rate", 50, "--replay", 0, "--tolerance", 0
    )
    assert result.returncode == 7
    assert "nothing was written" in result.stderr
    assert not (device / "model-adapted.onnx").exists()
    assert (device / "model.onnx") in files


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", "mine", "--unlabelled", "mine"], "an option of the other kind|two things"),
        ([], "nothing to adapt to"),
        (["--data", "mine", "--tolerance", "1"], "an option of the other kind of samples; found --tolerance"),
        (["--unlabelled", "mine", "--scope", "full"], "an option of the other kind of samples; found --scope"),
        (["--data", "mine", "-o", "model.onnx"], "the adapted model would replace the model"),
        (["--data", "mine", "-o", "three.h5"], "the adapted model would replace the bundle"),
        (["--data", "own.npz", "-o", "own.npz"], "the adapted model would replace the data"),
        (["--data", "mine", "-o", "a.onnx", "--log", "model.onnx"], "the log would replace the model"),
        (["--data", "mine", "--scope", "norm-bias"], "no train program of this scope"),
        (["--data", "nowhere"], "no data there"),
    ],
)
def test_calls_that_cannot_be_right(run: Run, device: Path, options: list[str], said: str) -> None:
    before = {path: path.read_bytes() for path in (device / "model.onnx", device / "three.h5")}
    result = run("adapt", "model.onnx", "three.h5", *options)
    assert result.returncode == 2, result.stderr
    assert any(each in result.stderr for each in said.split("|")), result.stderr
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_training_that_is_killed_goes_on_to_the_same_bytes(run: Run, device: Path) -> None:
    call = ["adapt", "model.onnx", "three.h5", "--data", "mine", "--scope", "full", "--steps", "400", "--threads", "1"]
    assert run(*call, "-o", "whole.onnx").returncode == 0
    command = [sys.executable, "-m", "fieldkit", *call, "-o", "cut.onnx", "--save-every", "0"]
    process = subprocess.Popen(command, cwd=device, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = state_folder(device / "cut.onnx")
    while process.poll() is None and not list(folder.glob("*-[01]")):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (device / "cut.onnx").exists()
    result = run(*call, "-o", "cut.onnx", "--json")
    assert result.returncode == 0, result.stderr
    assert 0 < json.loads(result.stdout)["resumed"] < 400
    assert (device / "cut.onnx").read_bytes() == (device / "whole.onnx").read_bytes()
    assert not folder.exists()
