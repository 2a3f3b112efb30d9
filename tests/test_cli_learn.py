"""``fieldkit learn`` as a process: a state file from call to call."""

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
import tasks
from conftest import Run
from PIL import Image

from fieldkit.bundle import save_bundle
from fieldkit.field.learning.state import is_closed


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """task-0.h5, task-2.h5 and task-4.h5.  Read only."""
    folder = tmp_path_factory.mktemp("tasks")
    for first in (0, 2, 4):
        save_bundle(tasks.bundle(first), folder / f"task-{first}.h5")
    return folder


def photos(folder: Path, first: int, count: int) -> Path:
    """The device's own samples as a folder of images."""
    for number, (image, label) in enumerate(zip(*vars(tasks.samples(first, count, 3)).values(), strict=True)):
        place = folder / tasks.names(first + label)[0]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(place / f"{number:03}.png")
    return folder


def test_task_after_task_into_one_model(run: Run, bundles: Path, tmp_path: Path) -> None:
    for number, first in enumerate((0, 2), start=1):
        done = run("learn", "device.state", "--bundle", bundles / f"task-{first}.h5")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 5 + number
    assert "memory 12 images, 400 B of 256 kB" in done.stdout
    photos(tmp_path / "photos", 4, 20)
    done = run("learn", "device.state", "--data", "photos", "-o", "model.onnx", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "fieldkit.learn/1"
    assert (document["state"], document["model"], document["learnt"]) == ("device.state", "model.onnx", True)
    assert document["bytes"] == (tmp_path / "device.state").stat().st_size
    assert document["model_bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert [each["name"] for each in document["classes"]] == list(tasks.names(*range(6)))
    assert [each["kind"] for each in document["tasks"]] == ["distilled", "distilled", "own"]
    assert document["memory"]["bytes"] <= document["memory"]["limit"] == 256_000
    assert (document["accuracy"], document["forgetting"]) == (1.0, 0.0)
    every = handmade.images(60, classes=6, seed=9)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": every.images})
    assert np.array_equal(found.argmax(1), every.targets)
    Image.fromarray(every.images[5, 0]).save(tmp_path / "one.png")
    assert json.loads(session.get_modelmeta().custom_metadata_map["fieldkit.confidence"])["samples"] == 48
    assert run("predict", "model.onnx", "one.png").stdout.split("\t")[1] == "kind 5"


def test_a_call_is_made_once_and_a_report_changes_nothing(run: Run, bundles: Path, tmp_path: Path) -> None:
    assert run("learn", "a.state", "--bundle", bundles / "task-0.h5").returncode == 0
    before = (tmp_path / "a.state").read_bytes()
    again = run("learn", "a.state", "--bundle", bundles / "task-0.h5")
    assert (again.returncode, "has been learnt before" in again.stderr) == (0, True)
    shown = run("learn", "a.state", "--report")
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, again.stdout, "")
    assert (tmp_path / "a.state").read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.state"]
    exported = run("learn", "a.state", "-o", "model.onnx", "--quiet")
    assert exported.returncode == 0
    assert (tmp_path / "a.state").read_bytes() == before


def test_a_recipe_that_is_not_the_states_is_refused(run: Run, bundles: Path) -> None:
    assert run("learn", "a.state", "--bundle", bundles / "task-0.h5").returncode == 0
    done = run("learn", "a.state", "--bundle", bundles / "task-2.h5", "--recipe", "other")
    assert (done.returncode, done.stdout) == (2, "")
    assert "found other; expected linear" in done.stderr
    assert run("learn", "a.state", "--bundle", bundles / "task-2.h5", "--recipe", "linear").returncode == 0


def test_the_memory_is_made_smaller_and_holds_no_more(run: Run, bundles: Path) -> None:
    assert run("learn", "a.state", "--bundle", bundles / "task-0.h5", "--memory", "1KB").returncode == 0
    done = run("learn", "a.state", "--memory", "100", "--json")
    document = json.loads(done.stdout)
    assert document["memory"]["limit"] == 100
    assert 0 < document["memory"]["bytes"] <= 100
    small = run("learn", "a.state", "--bundle", bundles / "task-2.h5")
    assert (small.returncode, "remedy: give it more with --memory" in small.stderr) == (5, True)
    assert run("learn", "a.state", "--bundle", bundles / "task-2.h5", "--memory", "1 kB").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "nothing to do"),
        (("--report", "--bundle", "x.h5"), 2, "--report learns nothing"),
        (("--bundle", "x.h5", "--data", "y"), 2, "two things to learn"),
        (("--report",), 2, "no such state\n  remedy: begin it with a bundle"),
        (("--data", "photos"), 2, "no such state"),
        (("--bundle", "missing.h5"), 2, "no such bundle"),
        (("--bundle", "junk"), 4, "junk"),
        (("--bundle", "a.state"), 2, "the state would replace the bundle"),
        (("--report", "-o", "a.state"), 2, "the model would replace the state"),
        (("--bundle", "b.h5", "-o", "./b.h5"), 2, "the model would replace the bundle"),
        (("--data", "own.npz", "-o", "own.npz"), 2, "the model would replace the data"),
        (("--bundle", "b.h5", "--log", "b.h5"), 2, "the log would replace the bundle"),
        (("--report", "--memory", "lots"), 2, "no size"),
    ],
)
def test_what_cannot_be_done_is_said(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "junk").write_bytes(b"junk")
    photos(tmp_path / "photos", 0, 3)
    done = run("learn", "a.state", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "remedy: " in done.stderr
    assert not (tmp_path / "a.state").exists()


def test_a_damaged_state_is_refused_and_left_as_it_is(run: Run, bundles: Path, tmp_path: Path) -> None:
    assert run("learn", "a.state", "--bundle", bundles / "task-0.h5").returncode == 0
    content = bytearray((tmp_path / "a.state").read_bytes())
    content[-1] ^= 1
    (tmp_path / "a.state").write_bytes(content)
    done = run("learn", "a.state", "--bundle", bundles / "task-2.h5")
    assert (done.returncode, "checksum" in done.stderr) == (4, True)
    assert (tmp_path / "a.state").read_bytes() == content


def test_own_samples_of_another_size_are_refused_with_all_faults(run: Run, bundles: Path, tmp_path: Path) -> None:
    assert run("learn", "a.state", "--bundle", bundles / "task-0.h5").returncode == 0
    for name in ("one", "two"):
        (tmp_path / "large" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "large" / name / "a.png")
    done = run("learn", "a.state", "--data", "large")
    assert (done.returncode, "(1, 9, 9), the bundle's are (1, 4, 4)" in done.stderr) == (7, True)


def test_a_state_of_an_encrypted_bundle_is_closed_with_the_devices_key(run: Run, bundles: Path, tmp_path: Path) -> None:
    device, other = {"XDG_CONFIG_HOME": str(tmp_path / "one")}, {"XDG_CONFIG_HOME": str(tmp_path / "two")}
    assert run("keygen", "device", **device).returncode == 0
    assert run("trust", "device", "device.key", **device).returncode == 0
    (tmp_path / "task-0.h5").write_bytes((bundles / "task-0.h5").read_bytes())
    assert run("encrypt", "task-0.h5", "--to", "device.pub").returncode == 0
    first = run("learn", "a.state", "--bundle", "task-0.sealed", "--allow-unsigned", **device)
    assert first.returncode == 0, first.stderr
    content = (tmp_path / "a.state").read_bytes()
    assert is_closed(tmp_path / "a.state")
    assert b"task-0" not in content
    for environment, code in ((other, {2, 3}), (device, {0})):
        plain = run("learn", "a.state", "--bundle", bundles / "task-2.h5", "--allow-unsigned", **environment)
        assert plain.returncode in code
        assert is_closed(tmp_path / "a.state")
    assert "2 spare" in run("learn", "a.state", "--report", **device).stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_after_a_cut_the_same_call_ends_with_the_same_bytes(
    run: Run, bundles: Path, tmp_path: Path, number: signal.Signals
) -> None:
    long = ("--threads", "1", "--steps", "8000", "--save-every", "0.02")
    command = ("learn", "a.state", "--bundle", bundles / "task-0.h5", *long)
    process = subprocess.Popen(
        [sys.executable, "-m", "fieldkit", *map(str, command)], cwd=tmp_path, env=os.environ, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    # Until a state is saved, from which a training can go on.
    while not list(tmp_path.glob(".a.state.state/*-[01]")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == (6 if number == signal.SIGINT else -signal.SIGKILL), said
    assert not (tmp_path / "a.state").exists()
    resumed = run(*command)
    assert resumed.returncode == 0
    assert "going on from step" in resumed.stderr
    cut = (tmp_path / "a.state").read_bytes()
    assert not (tmp_path / ".a.state.state").exists()
    (tmp_path / "a.state").unlink()
    assert run(*command).returncode == 0
    assert (tmp_path / "a.state").read_bytes() == cut
