"""Spare classes and the program for images without labels, as HQ makes them, beside torch."""

from __future__ import annotations

import json
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.reader import read_bundle
from fieldkit.bundle.recipe import UNLABELLED, Augmentation, Schedule
from fieldkit.bundle.weights import initial_weights
from fieldkit.errors import UsageError
from fieldkit.field.engine.session import Stepper, open_session, run_session
from fieldkit.field.models.exporting import complete_model
from fieldkit.field.models.prediction import Predictor
from fieldkit.hq.compiler import Data, Sgd, compile_recipe
from fieldkit.hq.compiler.scopes import trained_parameters
from fieldkit.hq.models import build_model
from fieldkit.hq.models.laws import load_weights
from fieldkit.hq.models.normalisation import Normalise
from fieldkit.hq.objectives import classification

pytestmark = pytest.mark.hq

GREY = Radiometry(("grey",), "uint8", (100.0,), (50.0,))
DATA = Data((1, 8, 8), 3, GREY, spare=2)
SCHEDULE = Schedule(5, 6, rate=0.01)


def test_probabilities_are_those_of_the_classes_in_use() -> None:
    made = compile_recipe("convnet", {"width": 4}, DATA, optimiser=Sgd(), schedule=SCHEDULE)
    weights = initial_weights(made.recipe.parameters, made.recipe.initial, 3)
    module = build_model("convnet", {"width": 4}, DATA.input_shape, 5).eval()
    load_weights(module, weights)
    images = handmade.images(7, (1, 8, 8)).images
    with torch.no_grad():
        logits = module(Normalise(GREY)(torch.from_numpy(images)))
    for count in (2, 3, 5):
        session = open_session(complete_model(made.recipe.programs["predict"], weights, {}, count), "model", 1)
        (found,) = run_session(session, {"images": images}, "model")
        np.testing.assert_allclose(found, torch.softmax(logits[:, :count], 1).numpy(), atol=1e-5)


def test_a_bundle_without_spare_classes_has_the_same_programs_as_before_there_were_any() -> None:
    plain = Data(DATA.input_shape, 3, GREY)
    recipe = compile_recipe("mlp", {"width": 8}, plain, optimiser=Sgd(), schedule=SCHEDULE).recipe
    assert b"class_count" not in recipe.programs["predict"]
    assert [tuple(each.shape) for each in recipe.parameters][-2:] == [(3, 8), (3,)]


@given(st.integers(0, 10**6), st.integers(2, 5))
@settings(max_examples=30, deadline=None)
def test_rows_without_labels_count_by_their_entropy(seed: int, used: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 3
    mask = (torch.arange(5) < used).double()
    weights = torch.rand(6, generator=generator, dtype=torch.float64) + 0.1
    targets = torch.softmax(torch.randn(6, used, generator=generator, dtype=torch.float64), 1)
    targets = torch.nn.functional.pad(targets, (0, 5 - used))
    targets[::2] = 0.0
    found = classification.unlabelled_loss(logits, targets, weights, mask)
    probabilities = torch.softmax(logits[:, :used], 1)
    entropy = -(probabilities * probabilities.log()).sum(1)
    cross = -(targets[:, :used] * probabilities.log()).sum(1)
    rows = torch.where(targets.sum(1) > 0, cross, entropy)
    torch.testing.assert_close(found, (rows * weights).sum() / weights.sum())


@pytest.mark.parametrize(("norm", "statistics"), [("instance", False), ("batch", True)])
def test_without_labels_only_normalisations_and_their_statistics_move(norm: str, statistics: bool) -> None:
    made = compile_recipe(
        *("convnet", {"width": 4, "norm": norm}, DATA),
        optimiser=Sgd(),
        schedule=SCHEDULE,
        augmentation=Augmentation(flip=True),
        scopes=("full", UNLABELLED),
    )
    stepper = Stepper(made.recipe, UNLABELLED, 1)
    assert "aug" not in stepper.feeds
    weights = initial_weights(made.recipe.parameters, made.recipe.initial, 1)
    states = {f"state.{each.name}": np.zeros(each.shape, np.float32) for each in made.recipe.state[UNLABELLED]}
    stepper.load({f"param.{name}": each for name, each in weights.items()} | states)
    stepper.feeds["images"][...] = handmade.images(6, (1, 8, 8)).images
    for name, value in {"targets": 0.0, "weights": 1.0, "class_mask": 1.0, "lr": 0.1}.items():
        stepper.feeds[name][...] = value
    stepper.step()
    moved = {
        name.removeprefix("param.")
        for name, each in stepper.tensors().items()
        if name.startswith("param.") and not np.array_equal(each, weights[name.removeprefix("param.")])
    }
    expected = trained_parameters(build_model("convnet", {"width": 4, "norm": norm}, DATA.input_shape, 5), UNLABELLED)
    assert {name for name in moved if "running" not in name} == set(expected)
    assert any("running" in name for name in moved) == statistics


def test_a_model_without_normalisations_has_no_such_program() -> None:
    with pytest.raises(UsageError, match="nothing that this scope trains"):
        compile_recipe("mlp", {"width": 8}, DATA, optimiser=Sgd(), schedule=SCHEDULE, scopes=("full", UNLABELLED))


def test_a_device_adds_classes_to_what_build_made(run: Run, tmp_path: Path) -> None:
    samples = handmade.images(150, (1, 8, 8), 5)
    old, new = samples.targets < 3, samples.targets >= 3
    np.savez(tmp_path / "old.npz", x_train=samples.images[old, 0], y_train=samples.targets[old])
    few = np.flatnonzero(new)[:16]
    names = json.dumps(["three", "four"])
    np.savez(tmp_path / "new.npz", x_train=samples.images[few, 0], y_train=samples.targets[few] - 3, classes=names)
    built = run(
        *("build", "old.npz", "-o", "set.h5", "--ipc", 3, "--method", "random", "--spare-classes", 2, "--threads", 1),
        *("--recipe", "convnet:depth=1,width=4", "--steps", 40, "--iterations", 1, "--scope", "full", "--quiet"),
    )
    assert built.returncode == 0, built.stderr
    bundle = read_bundle(tmp_path / "set.h5")
    assert (bundle.manifest.spare_classes, len(bundle.manifest.classes)) == (2, 3)
    assert bundle.labels.shape == (9, 3)
    assert run("train", "set.h5", "-o", "model.onnx", "--threads", 1, "--allow-unsigned").returncode == 0
    assert Predictor.open(tmp_path / "model.onnx").classes == ("0", "1", "2")
    done = run("adapt", "model.onnx", "set.h5", "--data", "new.npz", "-o", "all.onnx", "--threads", 1)
    assert done.returncode == 0, done.stderr
    model = Predictor.open(tmp_path / "all.onnx")
    assert model.classes == ("0", "1", "2", "three", "four")
    unseen = handmade.images(100, (1, 8, 8), 5, seed=9)
    right = model.predict(unseen.images).argmax(1) == unseen.targets
    assert right[unseen.targets < 3].mean() > 0.8
    assert right[unseen.targets >= 3].mean() > 0.8
