"""Images that are mapped from files are the same images, with the same faults, and leave nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_bundle_atomic import files_of_at_most, names

from fieldkit.bundle import radiometry, samples
from fieldkit.bundle.hdf5 import h5py
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.samples import Samples, View
from fieldkit.errors import DataError, ResourceError
from fieldkit.field.datasets import load_dataset
from fieldkit.field.datasets.storage import SMALL, Storage

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (23, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 65536, (23, 6, 5, 3), dtype=np.uint16)
LABELS = np.arange(23) % 2


@pytest.fixture(autouse=True)
def _blocks_of_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """About seven grey images at a time, or one in colour."""
    monkeypatch.setattr(samples, "BLOCK", 217)


def plain(folder: Path) -> Path:
    np.savez(folder / "set.npz", x_train=GREY, y_train=LABELS, x_test=GREY[:9], y_test=LABELS[:9])
    return folder / "set.npz"


def compressed(folder: Path) -> Path:
    np.savez_compressed(folder / "set.npz", x_train=COLOUR.astype(">u2"), y_train=LABELS)
    return folder / "set.npz"


def interleaved(folder: Path) -> Path:
    np.savez(folder / "set.npz", x_train=np.asfortranarray(COLOUR), y_train=LABELS)
    return folder / "set.npz"


def bands_first(folder: Path) -> Path:
    np.savez(folder / "set.npz", x_train=COLOUR.transpose(0, 3, 1, 2).copy(), y_train=LABELS, layout="NCHW")
    return folder / "set.npz"


def chunked(folder: Path) -> Path:
    with h5py.File(folder / "set.h5", "w") as file:
        file.create_dataset("x_train", data=COLOUR, chunks=(4, 3, 5, 1), compression="gzip")
        file["y_train"] = LABELS
    return folder / "set.h5"


def file_of(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def encoded(folder: Path) -> Path:
    with h5py.File(folder / "set.h5", "w") as file:
        stored = file.create_dataset("x_train", (len(GREY),), h5py.vlen_dtype("uint8"))
        for index, image in enumerate(GREY):
            stored[index] = np.frombuffer(file_of(image), np.uint8)
        file["y_train"] = LABELS
        file.attrs["encoding"] = "png"
    return folder / "set.h5"


def files(folder: Path) -> Path:
    for index, image in enumerate(GREY):
        path = folder / "set" / ("train" if index < 15 else "test") / str(index % 2) / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_of(image))
    return folder / "set"


KINDS = (plain, compressed, interleaved, bands_first, chunked, encoded, files)
Write = Callable[[Path], Path]


@pytest.mark.parametrize("write", KINDS)
def test_mapped_images_are_those_in_memory(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path)
    near = load_dataset(path)
    far = load_dataset(path, storage=Storage(tmp_path / "kept", most=0))
    for here, there in ((near.train, far.train), (near.test, far.test)):
        assert (here is None) == (there is None)
        if here is not None and there is not None:
            assert isinstance(there.images, np.memmap)
            assert here.images.flags.c_contiguous
            assert (there.images.dtype, there.images.dtype.isnative) == (here.images.dtype, True)
            np.testing.assert_array_equal(here.images, there.images)
            assert here.digest() == there.digest()
    kept = ["test.npy", "train.npy"] if near.test else ["train.npy"]
    assert names(tmp_path / "kept") == kept


@pytest.mark.parametrize("write", [compressed, interleaved, bands_first, chunked])
def test_arrays_come_out_as_they_went_in(write: Write, tmp_path: Path) -> None:
    np.testing.assert_array_equal(load_dataset(write(tmp_path)).train.images, COLOUR.transpose(0, 3, 1, 2))


def test_few_images_stay_in_memory(tmp_path: Path) -> None:
    path = plain(tmp_path)
    size = GREY.nbytes
    for storage in (Storage(tmp_path / "kept"), Storage(tmp_path / "kept", most=size), Storage(None, most=0)):
        assert not isinstance(load_dataset(path, storage=storage).train.images, np.memmap)
    assert not (tmp_path / "kept").exists()
    assert size < SMALL


def broken_files(folder: Path) -> Path:
    path = files(folder)
    (path / "train" / "0" / "02.png").write_bytes(file_of(GREY[0, :4]))
    (path / "test" / "1" / "17.png").write_bytes(b"no image")
    return path


def broken_rows(folder: Path) -> Path:
    path = encoded(folder)
    with h5py.File(path, "r+") as file:
        file["x_train"][0] = np.frombuffer(file_of(GREY[0, :4]), np.uint8)
        file["x_train"][20] = np.zeros(9, np.uint8)
        del file["y_train"]
        file["y_train"] = LABELS[:7]
    return path


def broken_pixels(folder: Path) -> Path:
    pixels = GREY * 1.0
    pixels[[2, 19], 0, 0] = np.nan
    np.savez(folder / "set.npz", x_train=GREY, y_train=LABELS, x_test=pixels, y_test=LABELS[:3], classes=["a", "b"])
    return folder / "set.npz"


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (broken_files, ["1 of 22 images are 5x4 pixels", "test/1/17.png: unreadable image"]),
        (
            broken_rows,
            ["x_train[20]: unreadable", "1 of 22 images are 5x4", "23 images, y_train 7 labels"],
        ),
        (broken_pixels, ["x_test: float64 pixels", "2 are NaN", "x_test has 23 images, y_test 3 labels"]),
    ],
)
def test_faults_are_the_same_ones(write: Write, expected: list[str], tmp_path: Path) -> None:
    path, found = write(tmp_path), []
    for storage in (Storage(), Storage(tmp_path / "kept", most=0)):
        with pytest.raises(DataError) as caught:
            load_dataset(path, storage=storage)
        found.append(caught.value.faults)
    assert found[0] == found[1]
    for each in expected:
        assert each in "\n".join(found[0])


def test_images_that_are_not_all_there_leave_no_file(tmp_path: Path) -> None:
    storage = Storage(tmp_path, most=0)
    assert storage.put("train", (5, 1, 6, 5), GREY.dtype, [GREY[:2, None], GREY[2:4, None]]) is None
    with pytest.raises(DataError):
        storage.put("train", (5, 1, 6, 5), GREY.dtype, failing())
    assert names(tmp_path) == []


def failing() -> Any:
    yield GREY[:2, None]
    raise DataError("set", ["the rest is damaged"])


def test_a_full_disk_is_no_damaged_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for write in (chunked, files):
        path = write(tmp_path)
        storage = Storage(tmp_path / "kept", most=0)
        with files_of_at_most(200), pytest.raises(ResourceError, match="no space left"):
            load_dataset(path, storage=storage)
        assert names(tmp_path / "kept") == []
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    with pytest.raises(ResourceError, match="no space left for the images") as caught:
        storage.put("train", (2 * free // 30, 1, 6, 5), GREY.dtype, [])
    assert caught.value.exit_code == 5
    assert names(tmp_path / "kept") == []


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"mine")
    with pytest.raises(ResourceError, match="writing failed: File exists"):
        load_dataset(plain(tmp_path), storage=Storage(tmp_path / "kept", most=0))
    assert (tmp_path / "kept").read_bytes() == b"mine"


def test_memory_that_no_machine_has() -> None:
    with pytest.raises(ResourceError, match="not enough memory"):
        Storage().put("train", (1 << 50, 1, 6, 5), GREY.dtype, [])


def test_what_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    storage = Storage(tmp_path, most=0)
    first = storage.put("train", (4, 1, 6, 5), GREY.dtype, [GREY[:4, None]])
    second = storage.put("train", (3, 1, 6, 5), GREY.dtype, [GREY[4:7, None]])
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, GREY[:4, None])
    np.testing.assert_array_equal(second, GREY[4:7, None])


def test_a_wrong_checksum_and_a_lying_header_are_damage(tmp_path: Path) -> None:
    path = plain(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(GREY.tobytes()[-60:]) + 50] ^= 1
    path.write_bytes(whole)
    assert "damaged npz file" in fault(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 6, 5)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", header.getvalue() + bytes(60))
        labels = io.BytesIO()
        np.save(labels, LABELS)
        archive.writestr("y_train.npy", labels.getvalue())
    assert "x_train.npy ends early" in fault(path)


def fault(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path)
    (found,) = caught.value.faults
    return found


def test_descriptions_beside_mapped_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=COLOUR, y_train=LABELS, bands=json.dumps(["r", "g", "nir"]))
    assert load_dataset(tmp_path / "set.npz", storage=Storage(tmp_path, most=0)).bands == ("r", "g", "nir")


@settings(max_examples=6, deadline=None, derandomize=True)
@given(first=st.lists(st.integers(0, 22), min_size=3, max_size=30), second=st.lists(st.integers(-3, 2), max_size=9))
def test_a_part_reads_like_a_copy(first: list[int], second: list[int]) -> None:
    whole = Samples(COLOUR, LABELS)
    taken, part = whole.take(np.array(first)), whole.part(np.array(first))
    again, within = taken.take(np.array(second, np.int64)), part.part(np.array(second, np.int64))
    for copy, view in ((taken, part), (again, within)):
        images = view.images
        assert isinstance(images, View)
        assert images.base is COLOUR
        assert (images.shape, images.ndim, images.dtype) == (copy.images.shape, 4, copy.images.dtype)
        assert len(view) == len(copy)
        np.testing.assert_array_equal(view.targets, copy.targets)
        for index in (slice(None), slice(1, 7), np.arange(len(copy))[::-1]):
            np.testing.assert_array_equal(images[index], copy.images[index])
        assert view.digest() == copy.digest()
    np.testing.assert_array_equal(part.images[1], taken.images[1])


def test_the_digest_is_that_of_the_whole_arrays() -> None:
    found = hashlib.sha256()
    for array in (GREY, LABELS):
        found.update(str((array.shape, array.dtype.str)).encode())
        found.update(array.tobytes())
    assert Samples(GREY, LABELS).digest() == found.hexdigest()
    assert Samples(GREY[:0], LABELS[:0]).digest() != found.hexdigest()


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40)),
    kind=st.sampled_from(["uint8", "uint16"]),
    seed=st.integers(0, 99),
)
def test_statistics_are_numpys_to_the_last_bit(shape: tuple[int, ...], kind: str, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
    images[:, 0] = images[0, 0, 0, 0] if seed % 3 == 0 else images[:, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radiometry, "_PIXELS", 300)
        found = Radiometry.measure(images)
    assert found == Radiometry.measure(Samples(images, images).part(np.arange(len(images))).images)
    for band, (mean, deviation) in enumerate(zip(found.mean, found.std, strict=True)):
        assert mean == float(images[:, band].mean(dtype=np.float64))
        assert deviation == (float(images[:, band].std(dtype=np.float64)) or 1.0)
