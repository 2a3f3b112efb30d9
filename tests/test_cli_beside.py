"""``fieldkit build --beside`` and ``fieldkit learn`` as processes: task after task, from one set to the next."""

from __future__ import annotations

import json
from pathlib import Path

import handmade
import numpy as np
import onnxruntime
import pytest
import tasks
from conftest import Run

torch = pytest.importorskip("torch")

from fieldkit.bundle import read_bundle

pytestmark = pytest.mark.hq

COMMAND = [
    "--ipc", 3, "--iterations", 2, "--threads", 1, "--json", "--recipe", "convnet:depth=1,width=4", "--steps", 60,
    "--batch", 6, "--spare-classes", 2, "--probe", 8, "--augment", "rotate=0",
]  # fmt: skip


def data(path: Path, first: int, names: tuple[str, ...] | None = None) -> None:
    given = tasks.samples(first, 60)
    classes = json.dumps(names or tasks.names(first, first + 1))
    np.savez(path, x_train=given.images[:, 0], y_train=given.targets, classes=classes)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the first task, made here by hand.  Read only."""
    from fieldkit.bundle import save_bundle

    path = tmp_path_factory.mktemp("first") / "by-hand.h5"
    save_bundle(tasks.bundle(0), path)
    return path


def test_two_tasks_from_data_to_one_model(run: Run, tmp_path: Path) -> None:
    data(tmp_path / "a.npz", 0)
    data(tmp_path / "b.npz", 2)
    built = run("build", "a.npz", "-o", "a.h5", *COMMAND, "--method", "beside")
    assert built.returncode == 0, built.stderr
    built = run("build", "b.npz", "-o", "b.h5", *COMMAND, "--beside", "a.h5")
    assert built.returncode == 0, built.stderr
    assert "method beside: the only one that makes a set beside earlier ones" in built.stderr
    one, two = read_bundle(tmp_path / "a.h5"), read_bundle(tmp_path / "b.h5")
    assert two.manifest.classes == tasks.names(2, 3)
    assert two.labels.shape == (6, 2)
    # A device goes on with the first model, which knows of no other statistics.
    assert two.manifest.radiometry == one.manifest.radiometry
    named = [{"name": "a", "sha256": one.digest}]
    assert two.manifest.method["beside"] == named
    assert "beside" not in one.manifest.method
    definition = two.provenance["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["beside"] == named
    assert definition["resolvedDependencies"][1] == {"name": "a", "digest": {"sha256": one.digest}}
    for name in ("a.h5", "b.h5"):
        done = run("learn", "device.state", "--bundle", name, "-o", "model.onnx", "--threads", 1)
        assert (done.returncode, done.stderr) == (0, "")
    every = handmade.images(60, classes=6, seed=9)
    mine = np.flatnonzero(every.targets < 4)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": every.images[mine]})
    assert found.shape[1] == 4
    assert (found.argmax(1) == every.targets[mine]).mean() > 0.8


def test_a_stopped_job_goes_on_beside_the_same_bundles_alone(first: Path, tmp_path: Path) -> None:
    from fieldkit.field.datasets import load_dataset
    from fieldkit.hq.provenance import fingerprint
    from fieldkit.hq.spec import Spec

    data(tmp_path / "b.npz", 2)
    dataset = load_dataset(tmp_path / "b.npz")
    one, other = read_bundle(first), tasks.bundle(0, per_class=2)
    here, there = (Spec("b.npz", method="beside", beside=(str(folder / "a.h5"),)) for folder in (first, tmp_path))
    assert fingerprint(here, dataset, [one]) == fingerprint(there, dataset, [one])
    assert fingerprint(here, dataset, [one]) != fingerprint(here, dataset, [other])
    assert fingerprint(here, dataset, [one, other]) != fingerprint(here, dataset, [other, one])
    assert "beside" not in fingerprint(Spec("b.npz", method="beside"), dataset)


def test_another_method_is_refused(run: Run, first: Path, tmp_path: Path) -> None:
    data(tmp_path / "b.npz", 2)
    refused = run("build", "b.npz", "-o", "b.h5", *COMMAND, "--beside", first, "--method", "ridge")
    assert refused.returncode == 2
    assert "take --method beside, or leave --beside out" in refused.stderr
    assert not (tmp_path / "b.h5").exists()


def test_all_that_does_not_fit_is_said_at_once(run: Run, first: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 60000, (60, 5, 5, 3)).astype(np.uint16)
    names = json.dumps(["kind 1", "kind 7"])
    np.savez(tmp_path / "b.npz", x_train=pixels, y_train=np.arange(60) % 2, classes=names)
    refused = run("build", "b.npz", "-o", "b.h5", *COMMAND, "--beside", first, "--beside", first)
    assert refused.returncode == 7
    for fault in (
        "its images have shape (1, 4, 4), those of the data (3, 5, 5)",
        "its images are uint8, those of the data uint16",
        "its bands are grey, those of the data red, green, blue",
        "it has classes of the data already (kind 1)",
        "is named twice",
    ):
        assert fault in refused.stderr
    assert not (tmp_path / "b.h5").exists()


def test_a_bundle_that_is_not_there(run: Run, tmp_path: Path) -> None:
    data(tmp_path / "b.npz", 2)
    refused = run("build", "b.npz", "-o", "b.h5", *COMMAND, "--beside", "none.h5")
    assert refused.returncode == 2
    assert "none.h5" in refused.stderr
