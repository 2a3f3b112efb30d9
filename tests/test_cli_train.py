"""``fieldkit train`` as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
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
    head = {"train/head": weak.programs["train/full"]}
    parted = replace(weak, programs={**weak.programs, **head}, state={**weak.state, "head": weak.state["full"]})
    save_bundle(handmade.bundle(parted), tmp_path / "parted.h5")
    assert "HQ measured 90.0-100.0 %, but of scope full" in run("train", "parted.h5", "--scope", "head").stdout
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
        (("{bundle}", "--log", "{bundle}"), 2, "the log would replace the bundle"),
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


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """A training in a process of its own that has made its first steps."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "fieldkit", *map(str, arguments), "--log", "run.jsonl"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    log = folder / "run.jsonl"
    while process.poll() is None and not (log.exists() and '"begin"' in log.read_text()):
        time.sleep(0.02)
    time.sleep(0.1)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_says_how_to_go_on(tmp_path: Path, bundle_file: Path, number: int) -> None:
    process = started(tmp_path, "train", bundle_file, "--steps", 100_000_000, "--threads", 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (6, "")
    assert err.startswith("error: interrupted; the state is saved; found step ")
    assert err.endswith(" of 100000000\n  remedy: run the same command again\n")
    assert sorted(os.listdir(tmp_path)) == [".tiny.onnx.state", "run.jsonl"]
    events = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert (events[0]["event"], events[-1]["event"], events[-1]["error"]) == ("begin", "end", "Interrupted")


def test_killed_again_and_again_it_ends_with_the_same_model(tmp_path: Path, bundle_file: Path, run: Run) -> None:
    command = ("train", bundle_file, "--steps", 3_000, "--threads", 1)
    assert run(*command, "-o", "whole.onnx").returncode == 0
    resumed = []
    for _ in range(3):
        process = started(tmp_path, *command, "--save-every", 0)
        process.kill()
        _, err = process.communicate(timeout=60)
        resumed += [int(line.split("step ")[1].split(",")[0]) for line in err.splitlines() if "going on" in line]
        (tmp_path / "run.jsonl").unlink()
        assert not (tmp_path / "tiny.onnx").exists()
    last = run(*command, "--json")
    assert last.returncode == 0
    resumed.append(json.loads(last.stdout)["resumed"])
    assert len(resumed) == 3
    assert resumed == sorted(resumed)
    assert resumed[0] > 0
    assert (tmp_path / "tiny.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["tiny.onnx", "whole.onnx"]


def test_conditions_are_kept_and_told(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    done = run(
        *("train", bundle_file, "--max-temp", 80, "--provider", "cuda", "--nice", 3, "--max-memory", "2GB"),
        *("--minutes", 5, "--log", "run.jsonl", "--json"),
    )
    assert done.returncode == 0
    notes = done.stderr.splitlines()
    assert notes[0].startswith("provider cuda: onnxruntime ")
    assert notes[0].endswith("so programs run on the CPU")
    document = json.loads(done.stdout)
    assert (document["steps"], document["resumed"]) == (20, None)
    assert 0 < document["device"]["peak_memory"] < 2e9
    events = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [each["event"] for each in events if each["event"] != "step"] == ["begin", "end"]
    assert events[0]["steps"] == 20


@pytest.mark.parametrize(
    ("option", "value", "code", "says"),
    [
        ("--minutes", "0", 2, "--minutes"),
        ("--minutes", "0.0001", 5, "too little time to train"),
        ("--max-memory", "lots", 2, "'lots' is no size"),
        (
            "--max-memory",
            "1MB",
            5,
            "the training needs more memory than it may have; found a limit of 1 MB; expected at",
        ),
        ("--max-temp", "900", 2, "found 900.0; expected 20 to 120 Celsius"),
        ("--nice", "-1", 2, "--nice"),
        ("--log", "none/run.jsonl", 2, "none/run.jsonl: cannot write there"),
        ("--scope", "tail", 2, "no train program of this scope; found tail; expected full"),
        ("--scope", "unlabelled", 2, "remedy: train with scope full, then: fieldkit adapt MODEL BUNDLE --unlabelled"),
        ("--provider", "tpu", 2, "--provider"),
    ],
)
def test_conditions_that_cannot_be_kept(
    run: Run, bundle_file: Path, tmp_path: Path, option: str, value: str, code: int, says: str
) -> None:
    done = run("train", bundle_file, option, value)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert os.listdir(tmp_path) == []


def test_two_trainings_do_not_write_one_model(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    process = started(tmp_path, "train", bundle_file, "--steps", 100_000_000, "--threads", 1)
    done = run("train", bundle_file)
    process.kill()
    process.communicate()
    assert done.returncode == 2
    assert "another fieldkit is at work on this output" in done.stderr
