"""``fieldkit build`` as a process: what is asked for on the command line is what a device does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run

torch = pytest.importorskip("torch")

from fieldkit.bundle import read_bundle
from fieldkit.bundle.recipe import Schedule
from fieldkit.field.engine.session import Stepper, open_session, run_session
from fieldkit.field.engine.training import Trainer
from fieldkit.field.models.exporting import save_model
from fieldkit.hq.compiler import AdamW
from fieldkit.hq.compiler.programs import Prediction
from fieldkit.hq.compiler.updates import Regularisation, Update
from fieldkit.hq.distil.siamese import SIAMESE
from fieldkit.hq.evidence.reference import Reference
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq

MODEL = {"depth": 1, "width": 4}
COMMAND = [
    "--ipc", 3, "--method", "distribution", "--iterations", 2, "--set", "per_class=6", "--threads", 1, "--json",
    "--recipe", "convnet:depth=1,width=4", "--steps", 40, "--batch", 6, "--scope", "full", "--scope", "head",
    "--optimiser", "adamw:beta1=0.8,weight_decay=0.05", "--schedule", "one-cycle:rate=0.02,warmup=10",
    "--augment", "flip=true", "--augment", "rotate=0", "--augment", "brightness=0",
    "--regularise", "average=0.9", "--regularise", "clip_norm=0.5", "--regularise", "label_smoothing=0.1",
]  # fmt: skip
UPDATE = Update(AdamW(beta1=0.8, weight_decay=0.05), Regularisation(0.5, 0.9, 0.1))
HEAD = {"head.weight", "head.bias"}


def predicted(model: bytes, images: np.ndarray) -> np.ndarray:
    (probabilities,) = run_session(open_session(model, "model", 1), {"images": images}, "model")
    return probabilities


def test_optimiser_schedule_regularisation_and_scopes_reach_the_device(run: Run, tmp_path: Path) -> None:
    samples, unseen = handmade.images(120), handmade.images(30, seed=1)
    np.savez(tmp_path / "data.npz", x_train=samples.images[:, 0], y_train=samples.targets)
    built = run("build", "data.npz", "-o", "set.h5", *COMMAND)
    assert built.returncode == 0, built.stderr
    assert json.loads(built.stdout)["iterations"] == 2

    bundle = read_bundle(tmp_path / "set.h5")
    recipe = bundle.recipes["convnet"]
    assert set(recipe.programs) == {"predict", "train/full", "train/head"}
    assert recipe.schedule == Schedule(40, 6, "one-cycle", 0.02, 10)
    # In place of what the method's training does, one by one.
    assert recipe.augmentation == replace(SIAMESE, flip=True, rotate=0, brightness=0)
    names = {each.name for each in recipe.parameters}
    for scope, moved in (("full", names), ("head", HEAD)):
        states = {f"{kind}.{name}" for kind in ("mean", "square", "average") for name in moved}
        assert {each.name for each in recipe.state[scope]} == states

    trained = run("train", "set.h5", "--threads", 1, "--json")
    assert trained.returncode == 0, trained.stderr
    assert json.loads(trained.stdout)["steps"] == 40
    found = predicted((tmp_path / "set.onnx").read_bytes(), unseen.images)
    assert (found.argmax(1) == unseen.targets).mean() > 0.8

    # Torch, told the same by hand, gets there too: every number on the command line counts.
    module = build_model("convnet", MODEL, bundle.manifest.input_shape, 3)
    reference = Reference(recipe, module, bundle.manifest.radiometry, UPDATE)
    expected = reference.train(bundle.training_set(), 0, Stepper(recipe, "full").feeds)
    with torch.no_grad():
        torchs = Prediction(expected, bundle.manifest.radiometry).eval()(torch.from_numpy(unseen.images)).numpy()
    np.testing.assert_allclose(found, torchs, atol=1e-3)

    head = Trainer(recipe, scope="head", threads=1)
    first = head.begin(0).tensors
    fitted = head.fit(bundle.training_set(), seed=0)
    assert {name for name, each in fitted.weights.items() if (each != first[f"param.{name}"]).any()} == HEAD
    assert fitted.losses[-1] < fitted.losses[0]
    save_model(tmp_path / "head.onnx", fitted, bundle)
    found = predicted((tmp_path / "head.onnx").read_bytes(), unseen.images)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)


def test_adamw_takes_a_rate_of_its_own_where_none_is_named(run: Run, tmp_path: Path) -> None:
    samples = handmade.images(60)
    np.savez(tmp_path / "data.npz", x_train=samples.images[:, 0], y_train=samples.targets)
    rates = {}
    for optimiser in ("sgd", "adamw"):
        built = run(
            "build", "data.npz", "-o", f"{optimiser}.h5", "--ipc", 2, "--method", "random", "--steps", 3,
            "--threads", 1, "--recipe", "convnet:depth=1,width=4", "--optimiser", optimiser,
        )  # fmt: skip
        assert built.returncode == 0, built.stderr
        rates[optimiser] = read_bundle(tmp_path / f"{optimiser}.h5").recipes["convnet"].schedule.rate
    assert rates == {"sgd": 0.02, "adamw": 0.003}
