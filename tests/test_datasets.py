"""Data sets from arrays and folders, and what is said of bad ones: all of it, at once."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fieldkit.bundle.hdf5 import h5py
from fieldkit.errors import DataError, UsageError
from fieldkit.field.datasets import Dataset, check_enough, load_dataset

GREY = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
COLOUR = np.arange(6 * 4 * 5 * 3, dtype=np.uint16).reshape(6, 4, 5, 3)
LABELS = np.array([0, 1, 0, 1, 0, 1])


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def hdf5(folder: Path, attributes: dict[str, Any] | None = None, **arrays: Any) -> Path:
    with h5py.File(folder / "set.h5", "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes or {})
    return folder / "set.h5"


def faults(path: Path, **options: bool) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path, **options)
    assert caught.value.exit_code == 7
    assert caught.value.remedy
    assert path.name in str(caught.value)
    return "\n".join(caught.value.faults)


@pytest.mark.parametrize("write", [npz, hdf5])
def test_grey_arrays(tmp_path: Path, write: Any) -> None:
    found = load_dataset(write(tmp_path, x_train=GREY, y_train=LABELS, x_test=GREY[:2], y_test=LABELS[:2, None]))
    assert found.train.images.shape == (6, 1, 4, 3)
    assert np.array_equal(found.train.images[:, 0], GREY)
    assert found.train.targets.dtype == np.int64
    assert found.test is not None
    assert found.test.targets.tolist() == [0, 1]
    assert (found.classes, found.bands, found.name) == (("0", "1"), ("grey",), "set")


@pytest.mark.parametrize("names", [json.dumps(["oak", "pine"]), ["oak", "pine"]], ids=["json", "array"])
def test_descriptions(tmp_path: Path, names: Any) -> None:
    about = {"classes": names, "licence": "CC0", "source": "a forest", "bands": json.dumps(["r", "g", "nir"])}
    for path in (
        hdf5(tmp_path, about, x_train=COLOUR, y_train=LABELS),
        npz(tmp_path, x_train=COLOUR, y_train=LABELS, **about),
    ):
        found = load_dataset(path)
        assert np.array_equal(found.train.images, COLOUR.transpose(0, 3, 1, 2))
        assert found.train.images.flags.c_contiguous
        assert (found.classes, found.licence, found.source) == (("oak", "pine"), "CC0", "a forest")
        assert found.bands == ("r", "g", "nir")
        assert found.test is None


def test_bands_first_if_said(tmp_path: Path) -> None:
    found = load_dataset(npz(tmp_path, x_train=COLOUR.transpose(0, 3, 1, 2), y_train=LABELS, layout="NCHW"))
    assert np.array_equal(found.train.images, COLOUR.transpose(0, 3, 1, 2))
    for name in ("NCHW", "nhwc"):
        assert load_dataset(npz(tmp_path, x_train=np.zeros((6, 1, 8, 8), np.uint8), y_train=LABELS, layout=name))
    assert "expected NHWC or NCHW" in faults(npz(tmp_path, x_train=GREY, y_train=LABELS, layout="CHWN"))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 5, 5), (1, 3, 7), (3, 32, 32), (4, 8, 9), (12, 64, 64)])
@pytest.mark.parametrize("write", [npz, hdf5])
def test_bands_that_seem_to_come_first_are_asked_about(tmp_path: Path, write: Any, shape: tuple[int, ...]) -> None:
    path = write(tmp_path, x_train=np.zeros((6, *shape), np.uint8), y_train=LABELS)
    assert "say layout = NCHW if bands come first" in faults(path)
    path = write(tmp_path, x_train=GREY, y_train=LABELS, x_test=np.zeros((6, *shape), np.uint8), y_test=LABELS)
    assert "x_test" in faults(path)


@pytest.mark.parametrize("shape", [(1, 8, 1), (1, 8, 4), (8, 8, 3), (3, 3, 4), (5, 5, 12), (32, 32, 200)])
def test_bands_that_seem_to_come_last_do(tmp_path: Path, shape: tuple[int, ...]) -> None:
    found = load_dataset(npz(tmp_path, x_train=np.zeros((6, *shape), np.uint8), y_train=LABELS))
    assert found.train.images.shape[1:] == (shape[2], *shape[:2])


def test_big_endian_counts_come_out_native(tmp_path: Path) -> None:
    found = load_dataset(npz(tmp_path, x_train=COLOUR.astype(">u2"), y_train=LABELS))
    assert found.train.images.dtype == np.dtype("uint16")
    assert found.train.images.dtype.isnative


def jpeg(value: int, size: int = 8) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, "JPEG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def encoded(folder: Path, rows: list[np.ndarray]) -> Path:
    with h5py.File(folder / "set.h5", "w") as file:
        stored = file.create_dataset("x_train", (len(rows),), h5py.vlen_dtype("uint8"))
        for index, row in enumerate(rows):
            stored[index] = row
        file["y_train"] = np.arange(len(rows)) % 2
        file.attrs["encoding"] = "jpeg"
    return folder / "set.h5"


def test_encoded_images(tmp_path: Path) -> None:
    found = load_dataset(encoded(tmp_path, [jpeg(10), jpeg(200)]))
    assert found.train.images.shape == (2, 3, 8, 8)
    assert np.abs(found.train.images.mean(axis=(1, 2, 3)) - [10, 200]).max() < 2
    text = faults(encoded(tmp_path, [jpeg(10), jpeg(10)[:40], jpeg(10), jpeg(10, size=9)]))
    assert "x_train[1]: unreadable image" in text
    assert "1 of 3 images are 9x9 pixels" in text
    assert "x_train[3]" in text


def test_all_faults_of_arrays_at_once(tmp_path: Path) -> None:
    broken = np.full((6, 4, 3), 0.5)
    broken[0, 0, 0] = np.nan
    text = faults(
        npz(tmp_path, x_train=broken, y_train=LABELS - 1, x_test=GREY, y_test=LABELS[:5] * 1.0, classes="oops")
    )
    assert "x_train: float64 pixels; expected the sensor's native counts" in text
    assert "1 are NaN" in text
    assert "y_test: float64 labels" in text
    assert "classes: expected" in text
    assert "3 labels out of range" in text


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x_train": GREY}, "y_train: missing"),
        ({"x_train": GREY, "y_train": LABELS, "x_test": GREY}, "y_test: missing"),
        ({}, "x_train: missing"),
        ({"x_train": GREY * 1.0, "y_train": LABELS}, "all are whole, 0 to 71: store x.astype('uint8')"),
        ({"x_train": GREY.astype(int) * 9, "y_train": LABELS}, "store x.astype('uint16')"),
        ({"x_train": GREY / 255, "y_train": LABELS}, "undo the scaling"),
        ({"x_train": GREY[:, 0], "y_train": LABELS}, "shape (6, 3); expected (N,H,W)"),
        ({"x_train": GREY, "y_train": LABELS[:5]}, "x_train has 6 images, y_train 5 labels"),
        ({"x_train": GREY, "y_train": np.eye(6)}, "take argmax"),
        ({"x_train": GREY, "y_train": LABELS - 1}, "3 labels out of range 0 to 0: [0] = -1"),
        ({"x_train": GREY, "y_train": LABELS, "classes": ["a"]}, "out of range 0 to 0: [1] = 1"),
        ({"x_train": GREY, "y_train": LABELS, "classes": ["a", "b", "c"]}, "class 'c' has no samples"),
        ({"x_train": GREY, "y_train": LABELS, "classes": ["a", "a"]}, "a name is given twice"),
        ({"x_train": GREY, "y_train": LABELS, "classes": ["a", ""]}, "classes: '' is no name"),
        ({"x_train": GREY, "y_train": LABELS, "classes": ["a", "b\x1b[31m"]}, r"'b\x1b[31m' is no name"),
        ({"x_train": GREY, "y_train": LABELS, "classes": "[" * 100_000}, "classes: expected a JSON list"),
        ({"x_train": GREY, "y_train": LABELS * 0}, "only one class"),
        ({"x_train": GREY, "y_train": LABELS + 1}, "class '0' has no samples"),
        ({"x_train": GREY, "y_train": np.where(LABELS, np.nan, 0)}, "3 of them NaN"),
        ({"x_train": GREY, "y_train": LABELS, "x_test": GREY[:, 1:], "y_test": LABELS}, "test images are 3x3 pixels"),
        ({"x_train": GREY, "y_train": LABELS, "bands": ["a", "b"]}, "2 names for images of 1 bands"),
        ({"x_train": GREY[:0], "y_train": LABELS[:0]}, "none of them 0"),
        ({"x_train": GREY.astype(complex), "y_train": LABELS}, "complex128 pixels"),
        ({"x_train": GREY > 9, "y_train": LABELS}, "bool pixels"),
    ],
)
def test_faults_of_arrays(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    assert reason in faults(npz(tmp_path, **arrays))


def test_a_set_for_scoring_need_not_hold_every_class(tmp_path: Path) -> None:
    path = npz(tmp_path, x_train=GREY, y_train=LABELS, classes=["a", "b", "c"])
    assert load_dataset(path, for_training=False).classes == ("a", "b", "c")


def test_damaged_files(tmp_path: Path) -> None:
    for path in (npz(tmp_path, x_train=GREY, y_train=LABELS), hdf5(tmp_path, x_train=GREY, y_train=LABELS)):
        whole = path.read_bytes()
        for length in range(0, len(whole), 97):
            path.write_bytes(whole[:length])
            assert faults(path)
    (tmp_path / "pickled.npz").write_bytes(npz(tmp_path, x_train=np.array([{}]), y_train=LABELS).read_bytes())
    assert "damaged npz" in faults(tmp_path / "pickled.npz")
    (tmp_path / "a.txt").write_text("hello")
    assert "unknown kind of file" in faults(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="no data there"):
        load_dataset(tmp_path / "none")


def image(path: Path, value: int = 0, size: tuple[int, ...] = (4, 3)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(size, value, np.uint8)).save(path)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for index, name in enumerate(["b/2.png", "b/10.png", "a/1.png"]):
        image(tmp_path / name, index)
    (tmp_path / "a" / "Thumbs.db").write_text("x")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    found = load_dataset(tmp_path)
    assert found.classes == ("a", "b")
    # By name: 1 of a, then 10 and 2 of b.
    assert found.train.images[:, 0, 0, 0].tolist() == [2, 1, 0]
    assert found.train.targets.tolist() == [0, 1, 1]
    assert found.test is None
    assert found.name == tmp_path.name


def test_a_folder_of_splits(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "test/b/1.png"):
        image(tmp_path / name)
    found = load_dataset(tmp_path)
    assert found.train.targets.tolist() == [0, 1]
    assert found.test is not None
    assert found.test.targets.tolist() == [1]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus/1.png", "train/1.png"):
        image(tmp_path / name)
    assert load_dataset(tmp_path).classes == ("bus", "train")


def test_all_faults_of_a_folder_at_once(tmp_path: Path) -> None:
    for index in range(5):
        image(tmp_path / f"train/a/{index}.png")
    image(tmp_path / "train/a/wide.png", size=(4, 9))
    image(tmp_path / "train/b/colour.png", size=(4, 3, 3))
    image(tmp_path / "test/d/1.png")
    (tmp_path / "train/b/bad.png").write_text("not an image")
    (tmp_path / "train/c").mkdir()
    text = faults(tmp_path)
    assert "train: class 'c' has no samples" in text
    assert "test/d: a class that train does not have" in text
    assert "1 of 7 images are 9x4 pixels with 1 band of uint8, while 5 are 3x4 pixels" in text
    assert "train/a/wide.png" in text
    assert "1 of 7 images are 3x4 pixels with 3 bands of uint8" in text
    assert "train/b/bad.png: unreadable image" in text


def test_many_faults_are_counted(tmp_path: Path) -> None:
    for index in range(50):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"{index:02}.png").write_text("x")
    lines = faults(tmp_path).splitlines()
    assert len(lines) == 21
    assert "only one class" in lines[0]
    assert lines[-1] == "... and 31 more"


def test_a_class_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    for folder in (tmp_path / "oak", odd):
        folder.mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "1.png")
    assert r"'\udcff' is no name" in faults(tmp_path)


@pytest.mark.parametrize("shape", [f"({10**30},1,1)", "(6,1,True)", "{{{"])
def test_a_damaged_header_in_an_npz_file(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(6))
    assert "damaged npz file" in faults(path)


def test_an_empty_hdf5_dataset_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        file["x_train"], file["y_train"] = h5py.Empty("u1"), LABELS
    assert "x_train: missing" in faults(path)


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "no class folders" in faults(tmp_path)


def test_enough_samples(tmp_path: Path) -> None:
    data: Dataset = load_dataset(npz(tmp_path, x_train=GREY, y_train=[0, 0, 0, 0, 1, 1], classes=["oak", "pine"]))
    check_enough(data, 2)
    check_enough(data, 1, probe=1, held_out=0)
    with pytest.raises(DataError, match="class 'pine' has 2 samples in train; expected at least 3") as caught:
        check_enough(data, 1, probe=2, held_out=2)
    assert len(caught.value.faults) == 1
    assert "2 for the probe" in str(caught.value)
