"""From a data set to a bundle, through the library and through the command."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

torch = pytest.importorskip("torch")

from fieldkit.bundle import read_bundle
from fieldkit.bundle.samples import Samples
from fieldkit.cli.main import main
from fieldkit.errors import DataError, Diverged, ResourceError, UsageError
from fieldkit.field.datasets.storage import Storage
from fieldkit.field.engine.training import train
from fieldkit.hq import building, preparation, provenance
from fieldkit.hq.building import build
from fieldkit.hq.compiler.updates import Regularisation
from fieldkit.hq.distil import METHODS
from fieldkit.hq.distil.driver import Budget
from fieldkit.hq.evidence.accuracy import FieldScores, expectation
from fieldkit.hq.evidence.card import REPORT_SEEDS, note_disagreement
from fieldkit.hq.sources import load
from fieldkit.hq.spec import RecipeSpec, Spec

pytestmark = pytest.mark.hq

TINY = RecipeSpec("convnet", {"depth": 2, "width": 4})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three classes of 8x8 images, which differ in where they are bright."""
    rng = np.random.default_rng(0)
    targets = np.arange(150) % 3
    images = rng.integers(0, 80, (150, 8, 8))
    for index, target in enumerate(targets):
        images[index, :, 2 * target : 2 * target + 3] += 150
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    np.savez(path, x_train=images.astype(np.uint8), y_train=targets, classes=json.dumps(["left", "middle", "right"]))
    return str(path)


@pytest.fixture(scope="module")
def spec(data: str) -> Spec:
    return Spec(data, ipc=2, method="unrolled", settings={"real": 12}, recipes=(TINY,), steps=5, probe=9,
                budget=Budget(iterations=4), seed=3, threads=1)  # fmt: skip


def test_a_bundle_says_what_it_is(spec: Spec, tmp_path: Path) -> None:
    built = build(spec, tmp_path / "bars.h5")
    bundle = read_bundle(tmp_path / "bars.h5")
    assert bundle.digest == built.bundle.digest
    assert bundle.manifest.name == "bars"
    assert bundle.manifest.classes == ("left", "middle", "right")
    assert bundle.manifest.method == {
        "name": "unrolled", "ipc": 2, "start": "centres", "labels": {"kind": "learned"}, "settings": {"real": 12}
    }  # fmt: skip
    assert len(bundle.images) == 6
    assert bundle.probe is not None
    assert len(bundle.probe) == 9
    recipe = bundle.recipes["convnet"]
    assert not recipe.initial.fixed
    assert recipe.schedule.kind == "listed"
    assert len(recipe.schedule.rates) == 5
    assert bundle.card["parity"]["convnet"]["step_error"] <= 1e-3
    assert not list(tmp_path.glob("*.resume"))


def test_what_is_expected_is_what_the_written_bundle_gives(spec: Spec, tmp_path: Path) -> None:
    build(spec, tmp_path / "bars.h5")
    bundle = read_bundle(tmp_path / "bars.h5")
    assert bundle.probe is not None
    (found,) = FieldScores(threads=1).accuracies(bundle, "convnet", range(5), [bundle.probe])
    expected = bundle.manifest.expectations["convnet"]["probe"]
    assert expected == expectation(found, 9)
    assert expected.low <= min(found) <= max(found) <= expected.high


def test_the_same_build_gives_the_same_bytes(spec: Spec, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build(replace(spec, name="same"), tmp_path / f"{name}.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_time_and_hardware_are_told_where_bytes_depend_on_time_anyway(spec: Spec, tmp_path: Path) -> None:
    timed = replace(spec, method="random", settings={}, budget=Budget(iterations=1, seconds=60.0))
    told = build(timed, tmp_path / "timed.h5").bundle.card["distillation"]
    assert 0 <= told["seconds"] < 60
    assert told["hardware"].startswith("1 threads of ")
    assert platform.node() not in told["hardware"]
    counted = build(replace(timed, budget=Budget(iterations=1)), tmp_path / "counted.h5")
    assert counted.bundle.card["distillation"].keys() == {"iterations", "held_out_curve"}


def test_a_file_of_weights_is_told_by_name_and_digest(spec: Spec, data: str, tmp_path: Path) -> None:
    path = tmp_path / "secret-project" / "coder.pt"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    named = replace(spec, method="generative", settings={"weights": str(path), "autoencoder": "a:b"})
    told = provenance.described_method(named)["settings"]
    assert told["weights"] == {"file": "coder.pt", "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert told["autoencoder"] == "a:b"
    assert "secret-project" not in str(provenance.attested(tiny.bundle(), named, load(data)).provenance)
    with pytest.raises(UsageError, match="weights: cannot be read"):
        provenance.described_method(replace(named, settings={"weights": str(path) + "x"}))


def test_a_stopped_job_goes_on_whatever_the_order_of_its_settings(spec: Spec, data: str) -> None:
    dataset = load(data)
    one, other = ({"real": 12, "window": 3}, {"window": 3, "real": 12})
    told = [provenance.fingerprint(replace(spec, settings=each), dataset) for each in (one, other)]
    assert told[0] == told[1]


def test_no_probe_image_was_distilled_or_selected_on(spec: Spec, data: str, tmp_path: Path) -> None:
    build(replace(spec, method="random", settings={}, ipc=30), tmp_path / "bars.h5")
    bundle = read_bundle(tmp_path / "bars.h5")
    assert bundle.probe is not None
    distilled = {image.tobytes() for image in np.rint(bundle.images.decode()).astype(np.uint8)}
    real = {image.tobytes() for image in np.load(data)["x_train"]}
    assert distilled <= real
    assert not distilled & {image.tobytes() for image in bundle.probe.images}


def test_fixed_first_weights_make_every_seed_the_same(spec: Spec, tmp_path: Path) -> None:
    build(replace(spec, init="fixed"), tmp_path / "bars.h5")
    bundle = read_bundle(tmp_path / "bars.h5")
    first, second = (train(bundle, seed=seed, threads=1) for seed in (0, 1))
    for name, values in first.weights.items():
        np.testing.assert_array_equal(values, second.weights[name])
    assert bundle.manifest.expectations["convnet"]["held-out"].std == 0.0


def test_several_recipes_each_with_its_own_expectation(spec: Spec, tmp_path: Path) -> None:
    recipes = (TINY, RecipeSpec("convnet", {"depth": 1, "width": 4, "norm": "group", "pooling": "max"}))
    build(replace(spec, recipes=recipes, method="distribution", settings={"per_class": 4}), tmp_path / "bars.h5")
    bundle = read_bundle(tmp_path / "bars.h5")
    assert bundle.manifest.recipes == ("convnet", "convnet-2")
    assert bundle.manifest.expectations.keys() == {"convnet", "convnet-2"}
    assert bundle.recipes["convnet-2"].architecture["pooling"] == "max"


def test_fewer_levels_make_a_smaller_file(spec: Spec, tmp_path: Path) -> None:
    for levels in (256, 8):
        build(replace(spec, levels=levels), tmp_path / f"{levels}.h5")
    assert read_bundle(tmp_path / "8.h5").images.codes.max() == 7
    assert (tmp_path / "8.h5").stat().st_size < (tmp_path / "256.h5").stat().st_size


@pytest.mark.parametrize("method", ["distribution", "random", "ridge", "unrolled"])
def test_smaller_images_train_as_well_as_whole_ones(spec: Spec, tmp_path: Path, method: str) -> None:
    built = build(replace(spec, method=method, settings={}, formation=2), tmp_path / "small.h5")
    bundle = read_bundle(tmp_path / "small.h5")
    assert bundle.images.codes.shape == (2 * 4 * 3, 1, 4, 4)
    assert bundle.training_set().images.shape == (24, 1, 8, 8)
    assert bundle.manifest.method["formation"] == 2
    scored = built.bundle.card["held_out"]
    assert scored["field_engine"] == pytest.approx(scored["torch_unrounded"], abs=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ipc": 0}, "ipc: too small"),
        ({"init": "lucky"}, "fixed or random"),
        ({"recipes": ()}, "at least one"),
        ({"recipes": (RecipeSpec("alexnet"),)}, "convnet"),
        ({"recipes": (RecipeSpec("convnet", {"depth": 9}),)}, "too small for a depth of 9"),
        ({"method": "alchemy"}, ", ".join(sorted(METHODS))),
        ({"settings": {"magic": 1}}, "magic"),
        ({"data": "no/such/file"}, "no data there"),
        ({"levels": 257}, "levels do not fit; found 257; expected 2 to 256 of uint8 pixels"),
        ({"formation": 9}, "formation: images too small; found 9 for images of 8 x 8 pixels; expected at most 8"),
    ],
)
def test_a_wrong_spec_is_refused_and_nothing_written(
    spec: Spec, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        build(replace(spec, **change), tmp_path / "bars.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipes": (TINY, RecipeSpec("alexnet"))}, "unknown architecture; found alexnet"),
        ({"recipes": (RecipeSpec("convnet", {"height": 9}),)}, "convnet: unknown option; found height"),
        ({"recipes": (RecipeSpec("convnet", {"width": 0}),)}, "convnet width"),
        ({"method": "alchemy"}, "unknown method; found alchemy"),
        ({"settings": {"magic": 1}}, "no such setting; found magic; expected window, "),
        ({"settings": {"real": "many"}}, "unrolled real: wrong kind of value; found 'many'; expected int"),
        ({"settings": {"window": True}}, r"unrolled window: .* expected int"),
        ({"method": "random", "settings": {"rate": 1}}, "found rate; expected none"),
        ({"settings": {"pool": 0}}, "unrolled pool: out of range; found 0; expected a whole number of at least 1"),
        ({"settings": {"rate": float("nan")}}, "unrolled rate: out of range; found nan; expected a finite number"),
        ({"settings": {"noise": -1}}, "unrolled noise: out of range"),
        ({"settings": {"rate": 10**500}}, "unrolled rate: out of range"),
        ({"method": "distribution", "settings": {"per_class": -3}}, "distribution per_class: out of range"),
        ({"formation": 0}, "formation: too small"),
        ({"schedule": {"kind": "listed"}}, "unknown schedule; found listed; expected constant, cosine"),
        ({"schedule": {"speed": 1}}, "unknown schedule; found speed"),
        ({"schedule": {"rate": "fast"}}, "schedule rate: wrong value; found 'fast'; expected a finite number from 0"),
        ({"schedule": {"milestones": ("x",)}}, "schedule milestones: wrong value"),
        ({"augmentation": {"blur": 1}}, "unknown augmentation; found blur; expected shift, scale, rotate, flip"),
        ({"augmentation": {"flip": 1}}, "augmentation flip: wrong value; found 1; expected true or false"),
        ({"augmentation": {"shift": True}}, "augmentation shift: wrong value; found True; expected a finite number"),
        ({"scopes": ("head",)}, "expected full among them"),
        ({"scopes": ("full", "neck")}, "unknown scope; found neck"),
        ({"regularisation": Regularisation(clip_norm=1.0)}, "follows a device.s training, .* through regularisation"),
        ({"seed": 1 << 63}, "seed: a seed out of range"),
        ({"name": "two\nlines"}, "name: not a name"),
        ({"budget": Budget(seconds=float("nan"))}, "minutes: not a length of time"),
    ],
)
def test_names_and_values_are_checked_before_the_data_is_read(
    spec: Spec, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        build(replace(spec, data="no/such/file", **change), tmp_path / "bars.h5")


def test_a_bundle_never_replaces_its_data(spec: Spec, data: str, tmp_path: Path) -> None:
    own = tmp_path / "own.npz"
    own.write_bytes(Path(data).read_bytes())
    with pytest.raises(UsageError, match="would replace the data"):
        build(replace(spec, data=str(own)), own)
    assert own.read_bytes() == Path(data).read_bytes()


def test_memory_that_is_not_there_is_a_resource_error(spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="not enough memory"):
        build(replace(spec, recipes=(RecipeSpec("convnet", {"width": 10**13}),)), tmp_path / "bars.h5")


def test_a_set_without_numbers_is_divergence(spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="every training diverged"):
        build(replace(spec, method="distribution", settings={"rate": 1e38}), tmp_path / "bars.h5")


def test_a_recipe_on_which_devices_diverge_is_told_to_its_builder(
    spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accuracies(self: FieldScores, bundle: object, recipe: str, seeds: Sequence[int], sets: object) -> object:
        if tuple(seeds) == REPORT_SEEDS:
            raise Diverged("the training diverged", where="recipe convnet", remedy="the bundle is at fault")
        return measure(self, bundle, recipe, seeds, sets)

    measure = FieldScores.accuracies
    monkeypatch.setattr(FieldScores, "accuracies", accuracies)
    with pytest.raises(Diverged, match=r"recipe convnet.*no bundle is written.*\n.*smaller rate") as caught:
        build(spec, tmp_path / "hot.h5")
    assert "at fault" not in str(caught.value)
    assert not (tmp_path / "hot.h5").exists()


def test_a_field_engine_that_disagrees_with_torch_is_told() -> None:
    said: list[str] = []
    note_disagreement({"field_engine": 0.970, "torch_unrounded": 0.974}, said.append)
    assert not said
    note_disagreement({"field_engine": 0.970, "torch_unrounded": 0.976}, said.append)
    assert "97.0 % through the field engine, 97.6 % in torch" in said[0]


def test_too_few_samples_name_each_class(spec: Spec, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class 'left' has 50 samples") as caught:
        build(replace(spec, ipc=60), tmp_path / "bars.h5")
    assert len(caught.value.faults) == 3
    assert not list(tmp_path.iterdir())


def test_scores_are_those_of_the_device(spec: Spec, tmp_path: Path) -> None:
    """The class of each image is found by a model that the field trained, as the command would."""
    bundle = build(replace(spec, steps=40, method="random", settings={}, ipc=10), tmp_path / "bars.h5").bundle
    assert bundle.probe is not None
    empty = Samples(bundle.probe.images, (bundle.probe.targets + 1) % 3)
    right, wrong = FieldScores(threads=1).accuracies(bundle, "convnet", [0], [bundle.probe, empty])
    assert right[0] > 0.8
    assert wrong[0] < 0.2


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fieldkit", *map(str, arguments)]


def small(data: str, output: Path) -> list[object]:
    return ["build", data, "-o", output, "--ipc", 2, "--recipe", "convnet:depth=2,width=4", "--threads", 1]


def test_command_prints_one_document(data: str, tmp_path: Path) -> None:
    output = tmp_path / "bars.h5"
    options = ["--method", "unrolled", "--set", "real=12", "--steps", 5, "--iterations", 2, "--probe", 6, "--json"]
    ran = subprocess.run(command(*small(data, output), *options), capture_output=True, text=True, check=True)
    document = json.loads(ran.stdout)
    assert document["schema"] == "fieldkit.build/1"
    assert document["bundle"]["bytes"] == output.stat().st_size
    assert document["expectations"]["convnet"]["probe"]["samples"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "real"], 2, "KEY=VALUE"),
        (["--ipc", "60"], 7, "class 'left' has 50 samples"),
        (["-o", "no/such/folder/x.h5"], 2, "folder does not exist"),
        (["--resume"], 2, "nothing to resume"),
    ],
)
def test_wrong_calls(data: str, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    ran = subprocess.run(
        command(*small(data, tmp_path / "bars.h5"), *arguments), capture_output=True, text=True, check=False
    )
    assert ran.returncode == code
    assert words in ran.stderr
    assert ran.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_second_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "measured", interrupted)
    options = ["--steps", 5, "--iterations", 2]
    arguments = [str(each) for each in (*small(data, tmp_path / "bars.h5"), *options)]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 6
    first = capsys.readouterr().err
    assert "--resume goes on" in first
    assert "starting anew" not in first
    with pytest.raises(SystemExit):
        main(arguments)
    assert "starting anew" in capsys.readouterr().err


def test_ctrl_c_packs_the_best_so_far_and_resume_ends_as_if_uncut(data: str, tmp_path: Path) -> None:
    output = tmp_path / "bars.h5"
    options = ["--method", "unrolled", "--set", "real=12", "--steps", 5, "--iterations", 400, "--name", "same"]
    process = subprocess.Popen(command(*small(data, output), *options), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "distilling" in line:
            break
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    words = process.communicate(timeout=60)[1]
    assert process.returncode == 6, words
    assert "--resume" in words
    read_bundle(output)
    assert output.with_name("bars.h5.resume").is_file()
    subprocess.run(command(*small(data, output), *options, "--resume"), capture_output=True, check=True)
    assert not output.with_name("bars.h5.resume").exists()
    whole = tmp_path / "whole.h5"
    subprocess.run(command(*small(data, whole), *options), capture_output=True, check=True)
    assert whole.read_bytes() == output.read_bytes()


class TestWhatIsLeftOpen:
    """The method "auto" and a precision that nobody named."""

    @pytest.fixture
    def told(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Notes; a network takes a millisecond an image here, and a third of that in bfloat16."""

        def pass_seconds(recipe: RecipeSpec, material: preparation.Material, precision: str) -> float:
            return 0.001 if precision == "float32" else 0.0003

        monkeypatch.setattr(preparation, "_pass_seconds", pass_seconds)
        return []

    @pytest.mark.parametrize(
        ("changes", "method", "precision"),
        [
            ({"method": "auto"}, "ridge", "float32"),
            ({"method": "ridge"}, "ridge", "float32"),
            ({"method": "ridge", "budget": Budget(seconds=60)}, "ridge", "bfloat16"),
            ({"method": "ridge", "budget": Budget(seconds=60), "precision": "float32"}, "ridge", "float32"),
            ({"method": "unrolled", "budget": Budget(seconds=60)}, "unrolled", "float32"),
        ],
    )
    def test_is_decided_and_told(
        self, spec: Spec, told: list[str], changes: dict[str, object], method: str, precision: str
    ) -> None:
        open_spec = replace(spec, **{"settings": {}, "ipc": 12} | changes)
        material = preparation.read(open_spec, Storage())
        found = preparation.decided(open_spec, material, told.append)
        assert (found.method, found.precision) == (method, precision)
        expected = [f"method {method}"] * (open_spec.method == "auto")
        expected += ["precision bfloat16: 3.3 times"] * (open_spec.precision != found.precision == "bfloat16")
        assert len(told) == len(expected)
        assert all(text.startswith(start) for text, start in zip(told, expected, strict=True))
