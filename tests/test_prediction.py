"""Running a trained model on arrays and on files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
from PIL import Image

from fieldkit.errors import DataError, ProgramError, UsageError
from fieldkit.field.answers.answers import Asking, predict_files
from fieldkit.field.engine.training import train
from fieldkit.field.images.finding import find_images
from fieldkit.field.models import exporting
from fieldkit.field.models.prediction import Predictor

BUNDLE = handmade.bundle()
TRAINED = train(BUNDLE, threads=1)
MODEL = exporting.export(TRAINED, BUNDLE)
SAMPLES = handmade.images(50, seed=4)


def test_a_model_is_opened_from_its_file_and_from_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(MODEL)
    opened = Predictor.open(tmp_path / "model.onnx")
    assert opened.classes == ("kind 0", "kind 1", "kind 2")
    assert (opened.shape, opened.dtype) == ((1, 4, 4), "uint8")
    assert opened.radiometry == BUNDLE.manifest.radiometry
    assert np.array_equal(opened.predict(SAMPLES.images), Predictor.open(MODEL).predict(SAMPLES.images))


@pytest.mark.parametrize("batch", [1, 7, 50, 64])
def test_batches_join_to_one_answer(batch: int) -> None:
    predictor = Predictor.open(MODEL, threads=1)
    found = predictor.predict(SAMPLES.images, batch)
    assert found.shape == (50, 3)
    assert found.dtype == np.float32
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    assert np.allclose(found, predictor.predict(SAMPLES.images), atol=1e-6)
    assert (found.argmax(1) == SAMPLES.targets).mean() > 0.9


def test_no_images_give_no_rows() -> None:
    assert Predictor.open(MODEL).predict(SAMPLES.images[:0]).shape == (0, 3)


def test_images_that_the_model_cannot_take_are_all_named() -> None:
    predictor = Predictor.open(MODEL)
    with pytest.raises(DataError) as caught:
        predictor.predict(np.zeros((2, 3, 5, 4), np.float32))
    assert caught.value.faults == (
        "pixels are float32, the model takes uint8",
        "4x5 pixels with 3 bands, the model takes 4x4 pixels with 1 band",
    )
    with pytest.raises(DataError, match=r"shape of one image is \(4,\)"):
        predictor.predict(np.zeros((4, 4), np.uint8))


def without(key: str) -> bytes:
    metadata = exporting.describe(TRAINED, BUNDLE.manifest, "")
    del metadata[key]
    return exporting.complete_model(TRAINED.recipe.programs["predict"], TRAINED.weights, metadata)


def with_classes(text: str) -> bytes:
    metadata = exporting.describe(TRAINED, BUNDLE.manifest, "") | {exporting.CLASSES: text}
    return exporting.complete_model(TRAINED.recipe.programs["predict"], TRAINED.weights, metadata)


NOT_MODELS = {
    "text": b"this is no model at all",
    "empty": b"",
    "foreign": TRAINED.recipe.programs["predict"],
    "no classes": without(exporting.CLASSES),
    "no radiometry": without(exporting.RADIOMETRY),
    "no JSON": with_classes("[cut"),
    "no list": with_classes("3"),
    "deep JSON": with_classes("[" * 100_000),
    "too few classes": with_classes('["one"]'),
    "no weights": exporting.complete_model(
        TRAINED.recipe.programs["predict"], {}, exporting.describe(TRAINED, BUNDLE.manifest, "")
    ),
    "train program": exporting.complete_model(
        TRAINED.recipe.programs["train/full"], {}, exporting.describe(TRAINED, BUNDLE.manifest, "")
    ),
}


@pytest.mark.parametrize("content", NOT_MODELS.values(), ids=NOT_MODELS.keys())
def test_what_fieldkit_did_not_write_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ProgramError) as caught:
        Predictor.open(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_a_missing_model_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the model"):
        Predictor.open(tmp_path / "none.onnx")
    with pytest.raises(UsageError, match="cannot read the model"):
        Predictor.open(tmp_path)


def test_uint16_models_take_uint16() -> None:
    bundle = handmade.bundle(handmade.recipe(dtype="uint16"))
    bundle = replace(
        bundle, manifest=replace(bundle.manifest, radiometry=replace(bundle.manifest.radiometry, dtype="uint16"))
    )
    predictor = Predictor.open(exporting.export(train(bundle), bundle))
    assert predictor.dtype == "uint16"
    found = predictor.predict(SAMPLES.images.astype(np.uint16))
    assert np.allclose(found, Predictor.open(MODEL).predict(SAMPLES.images), atol=1e-5)


def test_files_are_answered_in_order_and_faults_do_not_stop_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "deeper"
    folder.mkdir(parents=True)
    for index in range(4):
        Image.fromarray(SAMPLES.images[index, 0]).save(folder / f"{index}.png")
    (folder / "1b.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "2b.png")
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    empty = tmp_path / "empty"
    empty.mkdir()
    files = list(find_images([tmp_path / "images", tmp_path / "none.png", empty]))
    assert [path.name for path in files] == [
        "0.png",
        "1.png",
        "1b.png",
        "2.png",
        "2b.png",
        "3.png",
        "none.png",
        "empty",
    ]
    predictor = Predictor.open(MODEL)
    answers = list(predict_files(predictor, files, Asking(batch=3)))
    assert [Path(each.file).name for each in answers] == [path.name for path in files]
    good = [each for each in answers if each.fault is None]
    assert [each.label for each in good] == [f"kind {target}" for target in SAMPLES.targets[:4]]
    expected = predictor.predict(SAMPLES.images[:4]).max(1)
    assert np.allclose([each.probability for each in good], expected, atol=1e-6)
    faults = {Path(each.file).name: each.fault or "" for each in answers if each.fault}
    assert set(faults) == {"1b.png", "2b.png", "none.png", "empty"}
    assert "unreadable" in faults["1b.png"]
    assert "9x9 pixels with 1 band, the model takes 4x4" in faults["2b.png"]
    assert faults["none.png"] == "no such file"
    assert "folder without image files" in faults["empty"]


def test_a_model_that_never_ends_is_refused() -> None:
    with pytest.raises(UsageError, match="not a file"):
        Predictor.open("/dev/zero")


def test_a_model_of_endless_small_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x00" * 1_000_002)
    with pytest.raises(ProgramError, match="number of fields"):
        Predictor.open(tmp_path / "model.onnx")
