"""``fieldkit train`` as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import handmade
import numpy as np
import onnxruntime
import pytest
from conftest import Run

from fieldkit.bundle.writer import save_bundle


def test_a_bundle_becomes_a_model_that_plain_onnxruntime_runs(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    done = run("train", bundle_file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tiny.onnx: linear, 51 parameters, 20 steps in ")
    assert "probe: 100.0 % of 30 images right, as expected: HQ measured 90.0-100.0 %" in done.stdout
    session = onnxruntime.InferenceSession(tmp_path / "tiny.onnx", providers=["CPUExecutionProvider"])
    samples = handmade.images(20)
    (found,) = session.run(None, {"images": samples.images})
    assert np.array_equal(found.argmax(1), samples.targets)


def test_the_same_call_writes_the_same_bytes(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert run("train", bundle_file, "-o", f"{name}.onnx", "--seed", 3, "--quiet").returncode == 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_json_is_one_versioned_document(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    done = run("train", bundle_file, "--recipe", "brief", "--seed", 2, "--steps", 7, "--threads", 1, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "fieldkit.train/1"
    assert (document["recipe"], document["seed"], document["steps"]) == ("brief", 2, 7)
    assert document["model"] == {"file": "tiny.onnx", "bytes": (tmp_path / "tiny.onnx").stat().st_size}
    assert len(document["bundle"]["digest"]) == 64
    assert document["loss"]["last"] < document["loss"]["first"]
    probe = document["probe"]
    assert (probe["samples"], probe["low"], probe["high"]) == (30, 0.9, 1.0)
    assert (probe["comparable"], probe["within"]) == (False, None)


def test_the_probes_verdict_depends_on_what_hq_measured(run: Run, tmp_path: Path) -> None:
    weak = handmade.recipe("weak", steps=1, rate=1e-6)
    save_bundle(handmade.bundle(weak), tmp_path / "weak.h5")
    save_bundle(handmade.bundle(probe=0), tmp_path / "plain.h5")
    done = run("train", "weak.h5")
    assert done.returncode == 0
    assert "LESS THAN EXPECTED: HQ measured 90.0-100.0 %" in done.stdout
    assert "remedy: " in done.stdout
    assert "with the recipe's own number of steps" in run("train", "weak.h5", "--steps", 2).stdout
    assert "probe: the bundle carries none" in run("train", "plain.h5").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("none.h5",), 2, "none.h5: no such bundle"),
        (("{folder}",), 2, "not a bundle"),
        (("{bundle}", "--recipe", "huge"), 2, "found huge; expected linear or brief"),
        (("{bundle}", "--steps", "0"), 2, "'--steps': 0 is not in the range"),
        (("{bundle}", "--steps", "-3"), 2, "--steps"),
        (("{bundle}", "--threads", "0"), 2, "--threads"),
        (("{bundle}", "--seed", "-1"), 2, "--seed"),
        (("{bundle}", "--seed", str(1 << 63)), 2, "seed"),
        (("{bundle}", "-o", "none/model.onnx"), 2, "none/model.onnx: cannot write there: its folder does not exist"),
        (("{bundle}", "-o", "{folder}"), 2, "found a folder"),
        (("{bundle}", "-o", "{bundle}"), 2, "would replace the bundle"),
        (("{bundle}", "--threads", "100000000"), 2, "--threads"),
        (("text.h5",), 4, "text.h5"),
        (("cut.h5",), 4, "cut.h5"),
        (("flipped.h5",), 4, "flipped.h5"),
        (("empty.h5",), 4, "empty.h5"),
    ],
)
def test_bad_calls_and_damaged_bundles(
    run: Run, bundle_file: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    whole = bundle_file.read_bytes()
    flipped = bytearray(whole)
    flipped[-200] ^= 1
    files = {"text.h5": b"no bundle" * 1000, "cut.h5": whole[:-50], "flipped.h5": bytes(flipped), "empty.h5": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    done = run("train", *(each.format(bundle=bundle_file, folder="folder") for each in arguments))
    assert done.returncode == code
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {*files, "folder"}


def test_a_failed_training_keeps_the_model_that_was_there(run: Run, tmp_path: Path) -> None:
    save_bundle(handmade.bundle(handmade.recipe(rate=1e38)), tmp_path / "wild.h5")
    (tmp_path / "wild.onnx").write_bytes(b"an older model")
    done = run("train", "wild.h5")
    assert done.returncode == 4
    assert "the training diverged" in done.stderr
    assert "remedy: " in done.stderr
    assert (tmp_path / "wild.onnx").read_bytes() == b"an older model"


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, bundle_file: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fieldkit", "train", str(bundle_file), "--steps", "100000000", "--threads", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        for _ in range(100):
            time.sleep(0.1)
            if "onnxruntime" in Path(f"/proc/{process.pid}/maps").read_text():
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 6
    assert out == ""
    assert "interrupted" in err
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
