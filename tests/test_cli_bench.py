"""``fieldkit bench`` and ``fieldkit doctor`` as processes, and what their numbers are made of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import handmade
import pytest
from conftest import Run
from test_device import Scripted

from fieldkit.bundle.writer import save_bundle
from fieldkit.errors import ProgramError, ResourceError
from fieldkit.field.device import description
from fieldkit.field.device.sensors import Reading
from fieldkit.field.endurance.rehearsal import LEAST, Rehearsal, Scene, rehearse
from fieldkit.field.measurement import benchmark
from fieldkit.field.measurement.benchmark import Measurement, metered, yardstick
from fieldkit.field.measurement.ranking import Cost


def test_bench_measures_every_recipe(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    done = run("bench", bundle_file, "--seconds", 0.05, "--threads", 1, "--full", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "fieldkit.bench/1"
    assert [each["recipe"] for each in document["recipes"]] == ["linear", "brief"]
    for each, steps in zip(document["recipes"], (20, 3), strict=True):
        training, step = each["training"], each["training"]["step_seconds"]
        assert (training["batch"], training["steps"]) == (8, steps)
        assert 0 < step["quartiles"][0] <= step["median"] <= step["quartiles"][1]
        assert training["samples_per_second"] == pytest.approx(8 / step["median"])
        assert training["seconds"] > 0
        assert training["memory"] > 20e6
        assert each["inference"]["images_per_second"] > 0
        assert each["whole"]["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_bench_reads_well(run: Run, bundle_file: Path) -> None:
    done = run("bench", bundle_file, "--seconds", 0.1, "--recipe", "brief")
    assert done.returncode == 0
    assert done.stdout.startswith("recipe brief\n  step       ")
    assert "  inference  " in done.stdout
    assert run("bench", bundle_file, "--recipe", "huge").returncode == 2


def test_doctor_says_what_the_device_is_and_what_fits(run: Run, tmp_path: Path) -> None:
    save_bundle(handmade.bundle(), tmp_path / "one.h5")
    done = run("doctor", "one.h5", "--seconds", 0.1, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["schema"] == "fieldkit.doctor/1"
    assert document["device"]["threads"] >= 1
    assert document["speed"]["training"]["samples_per_second"] > 0
    (recipe,) = document["bundles"]["one.h5"]
    assert (recipe["recipe"], recipe["misfits"]) == ("linear", [])
    text = run("doctor", "--seconds", 0.1).stdout
    assert text.startswith("processor  ")
    assert "\ntraining   " in text
    assert "onnxruntime" in text


def test_doctor_refuses_what_is_no_bundle(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_bytes(b"no bundle")
    assert run("doctor", "text.h5", "--seconds", 0.1).returncode == 4


def measured(memory: int) -> Measurement:
    steps = Rehearsal(memory // 2, memory, 0.5, (0.1, 0.2, 0.3), 8)
    return Measurement(handmade.recipe(), steps, Cost(1000, 0.001, 500.0, 60 << 20))


def test_what_does_not_fit_says_why() -> None:
    here = replace(description.examine(Path()), memory_free=100 << 20, disk_free=10_000)
    assert measured(90 << 20).misfits(here) == []
    assert measured(110 << 20).misfits(here) == ["memory: 115 MB of 105 MB free"]
    # Weights and momentum, 51 values of 4 bytes each, four times.
    assert measured(90 << 20).files == 4 * 4 * 102
    assert measured(90 << 20).misfits(replace(here, disk_free=1000)) == ["disk: 0.0 MB of 0.0 MB free"]
    assert measured(90 << 20).seconds == pytest.approx(0.5 + 20 * 0.2)


def test_a_recipe_without_memory_for_it_is_told_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(scene: Scene) -> Rehearsal:
        raise ResourceError("not enough memory for a training step")

    monkeypatch.setattr(benchmark, "rehearse", refuse)
    found = benchmark.bench(handmade.bundle(), handmade.recipe(), seconds=0.1)
    assert found.misfits(description.examine(Path())) == ["not enough memory for a training step"]
    assert found.to_json()["fault"] == "not enough memory for a training step"


def test_a_rehearsal_makes_real_steps_and_names_what_is_wrong() -> None:
    found = rehearse(Scene(handmade.recipe(), threads=1))
    assert len(found.steps) == LEAST - 1
    assert 0 < found.memory < found.process
    broken = replace(handmade.recipe(), programs={"train/full": b"no program"})
    with pytest.raises(ProgramError, match="recipe linear, program train/full"):
        rehearse(Scene(broken))


def test_energy_is_read_all_along() -> None:
    with metered(Scripted([Reading(50.0, 2.0)])) as meter:
        pass
    assert meter.joules is not None
    assert meter.joules >= 0
    assert meter.hottest == 50.0


def test_the_yardstick_is_what_its_page_says() -> None:
    bundle = yardstick()
    (recipe,) = bundle.recipes.values()
    assert bundle.manifest.input_shape == (3, 32, 32)
    assert (recipe.architecture["name"], recipe.architecture["width"], recipe.schedule.batch) == ("convnet", 32, 32)
