"""Files as questions to a model: arrays of every layout, images of other sizes, and what is wrong with a file."""

from __future__ import annotations

import io
import threading
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldkit.field.answers import reading
from fieldkit.field.answers.reading import Question, Reader, read_ahead
from fieldkit.field.images import imagery
from fieldkit.field.images.resizing import resize
from fieldkit.field.models.prediction import Predictor


@dataclass(frozen=True)
class Model:
    """What a Reader needs to know of a Predictor."""

    shape: tuple[int, int, int]
    dtype: str = "uint8"
    where: str = "model.onnx"
    faults = Predictor.faults
    remedy = Predictor.remedy


def read(path: Path, shape: tuple[int, int, int], dtype: str = "uint8", way: str | None = None) -> list[Question]:
    return list(Reader(Model(shape, dtype), way)(path))


def saved(folder: Path, array: np.ndarray, name: str = "a.npy") -> Path:
    np.save(folder / name, array)
    return folder / name


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, shape, dtype=dtype)


LAYOUTS = {"chw": (0, 1, 2, 3), "nchw": (0, 1, 2, 3), "hwc": (0, 2, 3, 1), "nhwc": (0, 2, 3, 1)}


@settings(max_examples=60)
@given(
    layout=st.sampled_from(list(LAYOUTS)),
    # Rows are more than bands, so that no layout is another.
    shape=st.tuples(st.integers(1, 5), st.integers(6, 9), st.integers(6, 9)),
    count=st.integers(1, 4),
    dtype=st.sampled_from(["uint8", "uint16", ">u2"]),
    fortran=st.booleans(),
    zipped=st.booleans(),
)
def test_arrays_of_every_layout(
    layout: str,
    shape: tuple[int, int, int],
    count: int,
    dtype: str,
    fortran: bool,
    zipped: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    images = noise(count, *shape, dtype=np.dtype(dtype).name)
    array = images.transpose(LAYOUTS[layout]).astype(dtype, order="F" if fortran else "C")
    array = array if "n" in layout else array[0]
    path = tmp_path_factory.mktemp("arrays") / ("a.npz" if zipped else "a.npy")
    if zipped:
        np.savez_compressed(path, images=array, labels=np.arange(count))
    else:
        np.save(path, array)
    found = read(path, shape, images.dtype.name)
    assert [each.fault for each in found] == [None] * len(found)
    assert np.array_equal([each.image for each in found], images if "n" in layout else images[:1])
    assert [each.index for each in found] == (list(range(count)) if "n" in layout else [None])
    assert {each.array for each in found} == {"images" if zipped else None}
    assert {each.image.dtype for each in found if each.image is not None} == {images.dtype}


def test_grey_arrays_need_no_band(tmp_path: Path) -> None:
    images = noise(3, 6, 7)
    (single,) = read(saved(tmp_path, images[0]), (1, 6, 7))
    assert single.index is None
    assert np.array_equal(single.image, images[:1])
    stack = read(saved(tmp_path, images), (1, 6, 7))
    assert np.array_equal([each.image for each in stack], images[:, None])
    # As many images as bands, rows and columns: bands come first.
    (cube,) = read(saved(tmp_path, noise(3, 3, 3)), (3, 3, 3))
    assert np.array_equal(cube.image, noise(3, 3, 3))


def test_arrays_larger_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fieldkit.bundle.samples.BLOCK", 100)
    images = noise(11, 2, 6, 7)
    assert np.array_equal([each.image for each in read(saved(tmp_path, images), (2, 6, 7))], images)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (noise(2, 5, 5), "an array (2, 5, 5) of uint8; expected images (C,H,W) = (1, 6, 7) of uint8"),
        (noise(6, 7).astype(np.float64), "an array (6, 7) of float64"),
        (noise(6, 7, dtype="uint16"), "an array (6, 7) of uint16"),
        (np.zeros((0, 6, 7), np.uint8), "an array (0, 6, 7)"),
        (np.array(3, np.uint8), "an array ()"),
        (np.array([{}]), "damaged npy file"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: np.ndarray, reason: str) -> None:
    (found,) = read(saved(tmp_path, array), (1, 6, 7))
    assert reason in (found.fault or "")
    assert found.remedy


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"not a zip file")
    assert "damaged npy file" in (read(path, (1, 6, 7))[0].fault or "")
    zipfile.ZipFile(path, "w").close()
    assert read(path, (1, 6, 7))[0].fault == "an npz file without arrays"
    images = noise(400, 6, 7)
    np.savez_compressed(path, images=images)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 255
    path.write_bytes(whole)
    *good, last = read(path, (1, 6, 7))
    assert "damaged npz file" in (last.fault or "")
    assert all(each.fault is None for each in good)


def test_kinds_of_faults(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder").mkdir()
    Image.fromarray(noise(9, 8)).save(tmp_path / "size.png")
    faults = {
        name: read(tmp_path / name, (1, 6, 7))[0].fault for name in ("empty.png", "folder", "size.png", "none.npy")
    }
    assert faults == {
        "empty.png": "the file is empty",
        "folder": "a folder without image files",
        "size.png": "8x9 pixels with 1 band, the model takes 7x6 pixels with 1 band",
        "none.npy": "no such file",
    }
    assert "--resize" in (read(tmp_path / "size.png", (1, 6, 7))[0].remedy or "")
    assert "--resize" not in (read(tmp_path / "size.png", (3, 6, 7))[0].remedy or "")


def test_a_file_that_memory_does_not_hold_is_a_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(reading, "read_image", full)
    assert "memory" in (read(tmp_path / "a.png", (1, 6, 7))[0].fault or "")


@pytest.mark.parametrize("way", ["stretch", "crop"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_resizing(way: str, dtype: str) -> None:
    ramp = np.broadcast_to(np.linspace(0, np.iinfo(dtype).max, 40).astype(dtype), (2, 20, 40))
    found = resize(ramp, 10, 10, way)
    assert found.shape == (2, 10, 10)
    assert found.dtype == ramp.dtype
    # The whole ramp is stretched over ten columns; a crop takes the twenty columns around its middle.
    columns = np.arange(10) * 4 + 1.5 if way == "stretch" else np.arange(10) * 2 + 10.5
    expected = columns / 39 * np.iinfo(dtype).max
    assert np.abs(found[:, :, 1:-1] - expected[1:-1]).max() <= 0.01 * np.iinfo(dtype).max
    assert resize(ramp, 20, 40, way) is ramp
    assert np.array_equal(resize(np.full((3, 7, 5), 9, dtype), 64, 3, way), np.full((3, 64, 3), 9, dtype))


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    way=st.sampled_from(["stretch", "crop"]),
)
def test_resized_images_keep_their_range(shape: tuple[int, int, int], height: int, width: int, way: str) -> None:
    image = noise(*shape)
    found = resize(image, height, width, way)
    assert found.shape == (shape[0], height, width)
    assert (found >= image.min(axis=(1, 2), keepdims=True)).all()
    assert (found <= image.max(axis=(1, 2), keepdims=True)).all()


def test_images_are_resized_only_where_that_was_asked(tmp_path: Path) -> None:
    Image.fromarray(noise(12, 14)).save(tmp_path / "a.png")
    (found,) = read(tmp_path / "a.png", (1, 6, 7), way="stretch")
    assert found.image is not None
    assert found.image.shape == (1, 6, 7)
    (other,) = read(tmp_path / "a.png", (3, 6, 7), way="stretch")
    assert other.fault == "14x12 pixels with 1 band, the model takes 7x6 pixels with 3 bands"
    stack = read(saved(tmp_path, noise(3, 12, 14)), (1, 6, 7), way="crop")
    assert [each.image.shape for each in stack if each.image is not None] == [(1, 6, 7)] * 3


def test_reading_ahead_keeps_order_and_stays_near(tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.png" for index in range(300)]
    Image.fromarray(noise(6, 7)).save(files[0])
    for file in files[1:]:
        file.hardlink_to(files[0])
    taken = 0

    def asked() -> list[Path]:
        nonlocal taken
        for file in files:
            taken += 1
            yield file

    questions = read_ahead(Reader(Model((1, 6, 7))), asked())
    for index in range(100):
        assert next(questions).file == str(files[index])
        assert taken <= index + reading.AHEAD + 2
    questions.close()
    assert taken < len(files)


def test_warnings_are_as_before_whatever_threads_overlapped() -> None:
    file = io.BytesIO()
    Image.fromarray(noise(50, 50)).save(file, "PNG")
    before = warnings.filters[:]
    threads = [
        threading.Thread(target=lambda: [imagery.decode_image(file.getvalue(), "a") for _ in range(50)])
        for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert warnings.filters == before
