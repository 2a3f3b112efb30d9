"""``fieldkit inspect`` as a process, and its contact sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
from conftest import Run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldkit.bundle import save_bundle
from fieldkit.bundle.manifest import Expectation
from fieldkit.bundle.pixels import Pixels
from fieldkit.cli.inspect import _pairs
from fieldkit.field.inspection.sheet import as_rgb, caption, contact_sheet


def test_text_tells_identity_recipes_and_sizes(run: Run, bundle_file: Path) -> None:
    done = run("inspect", bundle_file)
    assert (done.returncode, done.stderr) == (0, "")
    for part in ("handmade", "3: kind 0, kind 1, kind 2", "CC0-1.0", "recipe linear", "recipe brief", "3 steps of 8"):
        assert part in done.stdout
    assert "99.0 +- 1.0 % (90.0-100.0) over 3 seeds, 30 images" in done.stdout
    assert f"{bundle_file.stat().st_size:,}" in done.stdout


def test_json_describes_everything_once(run: Run, bundle_file: Path) -> None:
    document = json.loads(run("inspect", bundle_file, "--json").stdout)
    assert document["schema"] == "fieldkit.inspect/1"
    assert document["classes"] == ["kind 0", "kind 1", "kind 2"]
    assert document["distilled"]["per_class"] == [2, 2, 2]
    assert [each["name"] for each in document["recipes"]] == ["linear", "brief"]
    assert document["recipes"][0]["parameters"] == 51
    assert document["recipes"][0]["initial"] == "random"
    assert document["recipes"][0]["expectations"]["probe"]["seeds"] == 3
    assert document["probe"] == {"images": 30}
    parts = document["parts"]
    assert {"/distilled/images", "/manifest", "/probe/images", "/recipes/brief/train/full"} <= set(parts)
    assert 0 < sum(parts.values()) < document["bytes"] == bundle_file.stat().st_size


def test_nested_settings_read_well() -> None:
    document = {"ipc": 1, "name": "unrolled", "settings": {"window": 8}, "more": {}}
    assert _pairs(document) == "unrolled, ipc 1, settings (window 8)"


def test_the_sheet_is_written_whole_or_not_at_all(run: Run, bundle_file: Path, tmp_path: Path) -> None:
    assert run("inspect", bundle_file, "--sheet", "sheet.png").returncode == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
    missing = run("inspect", bundle_file, "--sheet", "none/sheet.png")
    assert missing.returncode == 2
    assert "folder does not exist" in missing.stderr
    odd = run("inspect", bundle_file, "--sheet", "sheet.txt")
    assert odd.returncode == 2
    assert "expected .png or .jpg or .jpeg" in odd.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]


def test_what_is_no_bundle_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no bundle")
    assert run("inspect", "text.h5").returncode == 4
    assert run("inspect", "none.h5").returncode == 2


@settings(deadline=None, max_examples=15)
@given(st.tuples(st.integers(1, 13), st.integers(1, 130), st.integers(1, 130)), st.integers(1, 6), st.integers(1, 5))
def test_any_bundle_has_a_sheet(shape: tuple[int, int, int], classes: int, per_class: int) -> None:
    bundle = handmade.bundle(
        handmade.recipe(shape=shape, classes=classes), shape=shape, classes=classes, per_class=per_class
    )
    sheet = contact_sheet(bundle)
    assert sheet.mode == "RGB"
    assert 560 <= sheet.width <= 2000


def test_constant_images_have_a_sheet() -> None:
    bundle = handmade.bundle()
    flat = np.full((6, 1, 4, 4), 7, np.float32)
    contact_sheet(replace(bundle, images=Pixels.encode(flat, "uint8")))


@pytest.mark.parametrize(("bands", "shown"), [(1, (0, 0, 0)), (2, (0, 0, 0)), (3, (0, 1, 2)), (5, (0, 1, 2))])
def test_bands_become_colours(bands: int, shown: tuple[int, ...]) -> None:
    images = np.random.Generator(np.random.PCG64(1)).normal(size=(4, bands, 3, 3)).astype(np.float32)
    pixels = as_rgb(images)
    assert pixels.shape == (4, 3, 3, 3)
    assert (pixels.min(), pixels.max()) == (0, 255)
    for channel, band in enumerate(shown):
        brightest = images[:, band].argmax()
        assert pixels[..., channel].reshape(-1)[brightest] == 255


def test_captions_name_the_strongest_class() -> None:
    assert caption(np.array([0.2, 0.8]), ("cat", "dog")) == ("dog", "0.80")
    assert caption(np.array([1.0, 0.0]), ("cat", "dog")) == ("cat", "")


def test_nothing_in_a_bundle_poses_as_another_row(run: Run, tmp_path: Path) -> None:
    bundle = handmade.bundle(handmade.recipe())
    name = bundle.manifest.recipes[0]
    expected = Expectation(0.9, 0.01, 0.8, 0.95, 3, 100)
    forged = "none\n  signed by       everybody\t\u202e"
    manifest = replace(bundle.manifest, licence=forged, expectations={name: {"probe\x1b[2J\n  digest": expected}})
    save_bundle(replace(bundle, manifest=manifest), tmp_path / "b.h5")
    done = run("inspect", "b.h5")
    assert done.returncode == 0
    assert not {"\x1b", "\u202e", "\t"} & set(done.stdout)
    assert [line.split()[0] for line in done.stdout.splitlines()[1:] if line.strip()].count("signed") == 1
    assert sum(line.startswith("  digest") for line in done.stdout.splitlines()) == 1
