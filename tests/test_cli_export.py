"""``fieldkit export`` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import handmade
import numpy as np
import onnxruntime
import pytest
from conftest import Run

from fieldkit.bundle.writer import save_bundle
from fieldkit.field.programs.graph import read_graph, write_graph


@pytest.fixture
def model(run: Run, bundle_file: Path, tmp_path: Path) -> Path:
    assert run("train", bundle_file, "-o", "model.onnx", "--threads", 1, "--quiet").returncode == 0
    return tmp_path / "model.onnx"


def test_a_smaller_copy_is_plain_onnx_that_predict_and_test_take(
    run: Run, bundle_file: Path, model: Path, tmp_path: Path
) -> None:
    done = run("export", model, "--int8", "--bundle", bundle_file, "--threads", 1)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert f"{tmp_path}/model-int8.onnx: 1 layers of 8 bits; " in first
    assert second == (
        "probe: 100.0 % before, 100.0 % after, of 30 images; the same class for 100.0 % of 6 distilled images"
    )
    samples = handmade.images(20)
    session = onnxruntime.InferenceSession(tmp_path / "model-int8.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": samples.images})
    assert np.array_equal(found.argmax(1), samples.targets)
    np.savez(
        tmp_path / "data.npz",
        x_train=samples.images[:, 0],
        y_train=samples.targets,
        classes=[f"kind {index}" for index in range(3)],
    )
    tested = run("test", "model-int8.onnx", "data.npz")
    assert tested.stdout.startswith("100.00 % of 20 images right")
    np.save(tmp_path / "one.npy", samples.images[0])
    assert "kind 0" in run("predict", "model-int8.onnx", "one.npy").stdout


def test_json_is_one_versioned_document(run: Run, bundle_file: Path, model: Path, tmp_path: Path) -> None:
    done = run("export", model, "--fp16", "--int8", "--bundle", bundle_file, "-o", "small.onnx", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "fieldkit.export/1"
    assert (document["file"], document["layers"], document["probe"]) == ("small.onnx", 1, 30)
    assert document["before"]["bytes"] == model.stat().st_size
    assert document["after"]["bytes"] == (tmp_path / "small.onnx").stat().st_size
    assert document["distilled"] == {"images": 6, "agreement": 1.0}
    assert document["before"]["accuracy"] == document["after"]["accuracy"] == 1.0
    assert document["same_bundle"] is True


def test_without_a_probe_the_two_are_compared_with_each_other(run: Run, model: Path, tmp_path: Path) -> None:
    save_bundle(handmade.bundle(probe=0), tmp_path / "plain.h5")
    done = run("export", model, "--int8", "--bundle", "plain.h5")
    assert done.returncode == 0
    assert "no probe in the bundle, so accuracy was not measured; the same class for 100.0 %" in done.stdout
    assert "was trained from another bundle than plain.h5" in done.stderr


def test_a_copy_that_costs_too_much_is_refused_and_nothing_is_written(
    run: Run, bundle_file: Path, model: Path, tmp_path: Path
) -> None:
    # A large weight that all classes share, beside which 8 bits forget the small ones that tell them apart.
    graph = read_graph(model.read_bytes(), "model")
    graph.tensors["param.weight"] = graph.tensors["param.weight"] * np.float32(0.01)
    graph.tensors["param.weight"][:, 0] = 3.0
    graph.tensors["param.bias"] = np.zeros(3, np.float32)
    model.write_bytes(write_graph(graph))
    (tmp_path / "small.onnx").write_bytes(b"an older one")
    done = run("export", model, "--int8", "--bundle", bundle_file, "-o", "small.onnx")
    assert done.returncode == 4
    assert "the smaller model is less accurate than is allowed" in done.stderr
    assert "remedy: allow more with --max-drop" in done.stderr
    assert (tmp_path / "small.onnx").read_bytes() == b"an older one"
    allowed = run("export", model, "--int8", "--bundle", bundle_file, "-o", "small.onnx", "--max-drop", 100)
    assert allowed.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("{model}",), 2, "Missing option '--bundle'"),
        (("{model}", "--bundle", "{bundle}"), 2, "nothing to do; expected --int8, --fp16 or both"),
        (("{model}", "--int8", "--bundle", "none.h5"), 2, "none.h5: no such bundle"),
        (("none.onnx", "--int8", "--bundle", "{bundle}"), 2, "none.onnx: cannot read the model"),
        (("{bundle}", "--int8", "--bundle", "{bundle}", "-o", "x.onnx"), 4, "tiny.h5"),
        (("{model}", "--int8", "--bundle", "{bundle}", "-o", "{model}"), 2, "the copy would replace the model"),
        (("{model}", "--int8", "--bundle", "{bundle}", "-o", "{bundle}"), 2, "the copy would replace the bundle"),
        (("{model}", "--int8", "--bundle", "{bundle}", "-o", "none/x.onnx"), 2, "its folder does not exist"),
        (("{model}", "--int8", "--bundle", "{bundle}", "--max-drop", "-1"), 2, "--max-drop"),
    ],
)
def test_bad_calls(
    run: Run, bundle_file: Path, model: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    before = sorted(tmp_path.iterdir())
    done = run("export", *(each.format(bundle=bundle_file, model=model) for each in arguments))
    assert done.returncode == code
    assert done.stdout == ""
    assert says.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before
