"""``fieldkit select`` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import handmade
import pytest
from conftest import Run
from PIL import Image

from fieldkit.bundle.writer import save_bundle


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of three recipes, of which one learns nothing."""
    path = tmp_path_factory.mktemp("select") / "three.h5"
    made = [handmade.recipe("good"), handmade.recipe("poor", rate=1e-7), handmade.recipe("long", steps=40)]
    save_bundle(handmade.bundle(*made), path)
    return path


def test_the_ranking_the_winner_and_the_picture(run: Run, three: Path, tmp_path: Path) -> None:
    done = run("select", three, "--plot", "pareto.png", "--threads", 1)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["recipe", "accuracy", "seeds", "steps", "latency", "ms", "images/s", "size", "memory"]
    rows = {line.split()[1]: line for line in lines[1:4]}
    assert set(rows) == {"good", "poor", "long"}
    assert "100.0 +- 0.0 %" in rows["good"]
    assert "given up early" in rows["poor"]
    assert lines[1].split()[0] in ("1", "1*")
    winner = lines[1].split()[1]
    assert lines[-1].startswith(f"three.onnx: {winner}, seed 0, ")
    assert "cannot be told from it, within 4.0 points, and the quickest is taken" in lines[-1]
    with Image.open(tmp_path / "pareto.png") as picture:
        assert picture.format == "PNG"
    # The very model that train makes.
    assert run("train", three, "--recipe", winner, "-o", "again.onnx", "--threads", 1, "--quiet").returncode == 0
    assert (tmp_path / "three.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()


def test_json_is_one_versioned_document(run: Run, three: Path, tmp_path: Path) -> None:
    done = run("select", three, "-o", "best.onnx", "--seeds", 2, "--no-elimination", "--minutes", 5, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "fieldkit.select/1"
    assert document["model"] == {"file": "best.onnx", "bytes": (tmp_path / "best.onnx").stat().st_size}
    assert (document["accuracy_of"], document["images"]) == ("probe", 30)
    assert [each["state"] for each in document["candidates"]] == ["trained"] * 3
    assert document["winner"] == document["candidates"][0]["recipe"]
    assert set(document["tied"]) == {"good", "long"}
    for each in document["candidates"]:
        assert each["seeds"] == 2
        assert each["steps"] == each["full_steps"]
        assert each["latency_ms"] > 0
        # Python and onnxruntime alone take more than 20 MB.
        assert 20e6 < each["memory"] < 400e6


def test_limits_that_none_keeps_name_the_nearest(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    done = run("select", bundle_file, "--max-size", "500B", "--max-memory", "1 MiB")
    assert done.returncode == 5
    assert done.stdout == ""
    assert "no recipe of the bundle keeps the limits on this device" in done.stderr
    assert "memory " in done.stderr
    assert "--max-size 97" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_too_little_time_is_said(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    done = run("select", bundle_file, "--minutes", "0.001")
    assert done.returncode == 5
    assert "time ended before any recipe was trained" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("none.h5",), "none.h5: no such bundle"),
        (("{bundle}", "-o", "{bundle}"), "would replace the bundle"),
        (("{bundle}", "-o", "none/best.onnx"), "its folder does not exist"),
        (("{bundle}", "--plot", "none/pareto.png"), "its folder does not exist"),
        (("{bundle}", "--plot", "pareto.pdf"), "expected .png"),
        (("{bundle}", "--plot", "best.png", "-o", "./best.png"), "the picture would replace the model"),
        (("{bundle}", "--max-size", "small"), "'small' is no size, such as"),
        (("{bundle}", "--max-size", "0"), "'0' is no size"),
        (("{bundle}", "--max-size", "5 bananas"), "is no size"),
        (("{bundle}", "--max-latency-ms", "0"), "--max-latency-ms"),
        (("{bundle}", "--seeds", "0"), "--seeds"),
        (("{bundle}", "--minutes", "-1"), "--minutes"),
    ],
)
def test_bad_calls(run: Run, three: Path, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = run("select", *(each.format(bundle=three) for each in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_probe_and_measurements_is_refused(run: Run, tmp_path: Path) -> None:
    save_bundle(handmade.bundle(probe=0), tmp_path / "plain.h5")
    done = run("select", "plain.h5")
    assert done.returncode == 4
    assert "nothing to compare recipes by" in done.stderr
    assert "build the bundle with --probe" in done.stderr
