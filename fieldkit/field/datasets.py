"""A labelled data set from an HDF5 file, an npz file or a folder of images.

Arrays: ``x_train, y_train`` and, if there is a test set, ``x_test, y_test``.  Images are uint8 or uint16 native counts,
(N,H,W), or (N,H,W,C) with channels last, or (N,C,H,W) where the key ``layout`` says "NCHW"; labels are whole numbers
from 0.  In an HDF5 file with the attribute ``encoding`` = "jpeg" or "png", each row of ``x_*`` is the bytes of one such
image file.  Keys (npz) or attributes (HDF5) that describe: ``classes`` (a JSON list or an array of names; digits if
absent), ``bands`` likewise, ``licence``, ``source``.

Folder: ``train/CLASS/*`` and, if there is a test set, ``test/CLASS/*``; or ``CLASS/*``.  Classes and files are taken in
the order of their names.

All faults of a data set are reported at once.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.hdf5 import UNREADABLE, h5py
from fieldkit.bundle.radiometry import PIXEL_DTYPES, default_bands
from fieldkit.bundle.samples import Samples
from fieldkit.errors import DataError, UsageError
from fieldkit.field.imagery import decode_image, is_image_file, read_image
from fieldkit.tasks import classification

SPLITS = ("train", "test")
_LISTED = 20
_EXAMPLES = 3
_ENCODINGS = ("jpeg", "png")
# More bands than this with channels last, few with channels first: the layout was probably meant the other way.
_FEW_BANDS = 16


@dataclass(frozen=True)
class Dataset:
    """Labelled images for one task, as they came: native counts, class indices.

    bands: one name per channel.  licence, source: for people; may be empty.
    """

    train: Samples
    test: Samples | None
    classes: tuple[str, ...]
    name: str
    licence: str
    source: str
    bands: tuple[str, ...]


@dataclass
class _Found:
    """What a reader gathers: arrays by split, descriptions, and faults as it meets them."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: tuple[str, ...] | None
    about: Mapping[str, Any]
    faults: list[str]
    remedy: str


def load_dataset(where: str | Path, *, for_training: bool = True) -> Dataset:
    """The data set at a path.

    for_training: require at least two classes, each with samples in train; a set that only scores a model need not.

    Raises UsageError if there is nothing at the path, DataError that lists all faults of the data.
    """
    path = Path(where)
    read = _reader(path)
    found = read(path)
    faults = [*_set_faults(found, for_training), *found.faults]
    if faults:
        raise DataError(path, _shortened(faults), remedy=found.remedy)
    splits = {split: Samples(found.images[split], found.labels[split]) for split in found.images}
    classes = found.classes or ()
    return Dataset(
        train=splits["train"],
        test=splits.get("test"),
        classes=classes,
        name=path.stem if path.is_file() else path.resolve().name,
        licence=_text(found.about.get("licence", found.about.get("license", ""))),
        source=_text(found.about.get("source", path.name)),
        bands=_names(found.about.get("bands")) or default_bands(splits["train"].images.shape[1]),
    )


def check_enough(dataset: Dataset, ipc: int, *, probe: int = 0, held_out: int = 0) -> None:
    """Raise DataError unless each class of train has ``ipc`` samples beside its share of probe and held-out set.

    probe, held_out: samples in all, which are taken evenly over the classes.
    """
    count = len(dataset.classes)
    need = ipc + -(-probe // count) + -(-held_out // count)
    groups = classification.group(dataset.train.targets, count)
    faults = [
        f"class {name!r} has {len(positions)} samples in train; expected at least {need}"
        for name, positions in zip(dataset.classes, groups, strict=True)
        if len(positions) < need
    ]
    if faults:
        remedy = f"add samples, or ask for less than {ipc} images per class, {probe} for the probe, {held_out} held out"
        raise DataError(dataset.name, _shortened(faults), remedy=remedy)


def _reader(path: Path) -> Callable[[Path], _Found]:
    """The reader for what stands at a path; a file's content decides, not its name."""
    if os.path.isdir(path):
        return _read_folder
    if not os.path.isfile(path):
        raise UsageError("no data there", where=path, found="nothing", remedy="check the path")
    try:
        if h5py.is_hdf5(path):
            return _read_hdf5
        if zipfile.is_zipfile(path):
            return _read_npz
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=path, remedy="check the permissions") from error
    expected = "an HDF5 or npz file, or a folder of images"
    raise DataError(path, [f"unknown kind of file; expected {expected}"], remedy="convert it")


# --- arrays -----------------------------------------------------------------------------------------------------------


def _read_npz(path: Path) -> _Found:
    try:
        with np.load(path, allow_pickle=False) as archive:
            wanted = {f"{letter}_{split}" for letter in "xy" for split in SPLITS} & set(archive.files)
            about = {key: archive[key] for key in archive.files if archive[key].ndim < 2 and key not in wanted}
            arrays = {key: archive[key] for key in sorted(wanted)}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(path, [f"damaged npz file: {error}"], remedy="write it again with numpy.savez") from error
    return _from_arrays(arrays, about, [])


def _read_hdf5(path: Path) -> _Found:
    faults: list[str] = []
    arrays: dict[str, np.ndarray] = {}
    try:
        with h5py.File(path, "r") as file:
            about = dict(file.attrs)
            for key in (f"{letter}_{split}" for letter in "xy" for split in SPLITS):
                stored = file.get(key)
                if isinstance(stored, h5py.Dataset):
                    encoded = key.startswith("x") and _text(about.get("encoding", "")) in _ENCODINGS
                    arrays[key] = _decoded(stored[()], key, faults) if encoded else stored[()]
    except UNREADABLE as error:
        raise DataError(path, [f"damaged HDF5 file: {error}"], remedy="write or copy it again") from error
    return _from_arrays(arrays, about, faults)


def _decoded(rows: np.ndarray, key: str, faults: list[str]) -> np.ndarray:
    """Images (N,H,W,C) from one encoded file per row; faults are added to ``faults``."""
    images: list[np.ndarray] = []
    names: list[str] = []
    for index, row in enumerate(rows):
        name = f"{key}[{index}]"
        try:
            images.append(decode_image(bytes(row), name))
            names.append(name)
        except DataError as error:
            faults += [f"{name}: {fault}" for fault in error.faults]
    odd = list(_odd_kinds(images, names))
    faults += odd
    if odd or len(images) != len(rows) or not images:
        return np.zeros((len(rows), 1, 1), np.uint8)
    return np.stack(images).transpose(0, 2, 3, 1)


def _from_arrays(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any], faults: list[str]) -> _Found:
    splits = [split for split in SPLITS if f"x_{split}" in arrays or f"y_{split}" in arrays or split == "train"]
    missing = [key for split in splits for key in (f"x_{split}", f"y_{split}") if key not in arrays]
    faults += [f"{key}: missing" for key in missing]
    whole = [split for split in splits if not {f"x_{split}", f"y_{split}"} & set(missing)]
    layout = _text(about.get("layout", "")).upper()
    if layout not in ("", "NHWC", "NCHW"):
        faults.append(f"layout: found {layout!r}; expected NHWC or NCHW")
    images, labels = {}, {}
    for split in whole:
        pixels = _pixels(arrays[f"x_{split}"], f"x_{split}", layout, faults)
        targets = _targets(arrays[f"y_{split}"], f"y_{split}", faults)
        if pixels is not None and targets is not None:
            images[split], labels[split] = pixels, targets
            if len(pixels) != len(targets):
                faults.append(f"x_{split} has {len(pixels)} images, y_{split} {len(targets)} labels")
    classes = _names(about.get("classes"))
    if "classes" in about and not classes:
        faults.append("classes: expected a JSON list or an array of names")
    if classes is None:
        top = max((int(each.max(initial=-1)) for each in labels.values()), default=-1)
        classes = tuple(str(index) for index in range(min(top, 10_000) + 1))
    remedy = "x_train, y_train, x_test, y_test: uint8 or uint16 counts (N,H,W) or (N,H,W,C), and labels from 0"
    return _Found(images, labels, classes, about, faults, remedy)


def _pixels(array: np.ndarray, key: str, layout: str, faults: list[str]) -> np.ndarray | None:
    """Images as [n, c, h, w], or None with the reason added to ``faults``."""
    before = len(faults)
    if array.dtype.name not in PIXEL_DTYPES:
        faults.append(f"{key}: {_foreign_pixels(array)}")
    if array.ndim not in (3, 4) or 0 in array.shape:
        faults.append(f"{key}: shape {array.shape}; expected (N,H,W) or (N,H,W,C), none of them 0")
    elif array.ndim == 4 and not layout and array.shape[1] <= _FEW_BANDS < array.shape[3]:
        faults.append(f"{key}: shape {array.shape} means {array.shape[3]} bands; say layout = NCHW if bands come first")
    if len(faults) > before:
        return None
    if array.ndim == 3:
        array = array[:, None]
    elif layout != "NCHW":
        array = array.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _foreign_pixels(array: np.ndarray) -> str:
    """Why these pixels are not native counts, and how to make them so."""
    text = f"{array.dtype} pixels; expected the sensor's native counts as uint8 or uint16"
    if array.dtype.kind == "f":
        broken = int(np.count_nonzero(~np.isfinite(array)))
        if broken:
            return f"{text}; {broken} are NaN or infinite"
    if array.dtype.kind not in "fiub" or not array.size:
        return text
    low, high = array.min(), array.max()
    if low >= 0 and high <= np.iinfo(np.uint16).max and np.array_equal(array, np.rint(array)):
        smallest = "uint8" if high <= np.iinfo(np.uint8).max else "uint16"
        return f"{text}; all are whole, {low:g} to {high:g}: store x.astype({smallest!r})"
    return f"{text}; they run from {low:g} to {high:g}: undo the scaling that made them"


def _targets(array: np.ndarray, key: str, faults: list[str]) -> np.ndarray | None:
    """Labels as int64 [n], or None with the reason added to ``faults``."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        faults.append(f"{key}: shape {array.shape}; expected (N,) class indices (of one-hot rows, take argmax)")
        return None
    if array.dtype.kind not in "iu":
        broken = f", {int(np.isnan(array).sum())} of them NaN" if array.dtype.kind == "f" else ""
        faults.append(f"{key}: {array.dtype} labels{broken}; expected whole numbers from 0")
        return None
    return array.astype(np.int64)


# --- folders ----------------------------------------------------------------------------------------------------------


def _read_folder(path: Path) -> _Found:
    # A class may itself be called "train": only a folder of folders is a split.
    split = any(each.is_dir() for each in _members(path / "train"))
    roots = {name: path / name for name in SPLITS if (path / name).is_dir()} if split else {"train": path}
    classes = tuple(each.name for each in _members(roots["train"]) if each.is_dir())
    faults: list[str] = []
    files: dict[str, list[tuple[Path, int]]] = {}
    for name, root in roots.items():
        folders = [each for each in _members(root) if each.is_dir()]
        unknown = [each.name for each in folders if each.name not in classes]
        faults += [f"{name}/{each}: a class that train does not have" for each in unknown]
        files[name] = [
            (file, classes.index(folder.name))
            for folder in folders
            if folder.name in classes
            for file in _members(folder)
            if is_image_file(file)
        ]
    if not classes:
        faults.append("no class folders; expected train/CLASS/* or CLASS/*, with PNG, JPEG, TIFF or BMP files")
    images, labels = _read_files(path, files, faults)
    return _Found(images, labels, classes, {}, faults, "mend, resize or remove these files, then run it again")


def _read_files(
    path: Path, files: Mapping[str, Sequence[tuple[Path, int]]], faults: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images and labels by split; images only if all files are readable and alike."""
    read: dict[str, list[np.ndarray]] = {}
    names: list[str] = []
    unreadable: list[str] = []
    for split, listed in files.items():
        read[split] = []
        for file, _ in listed:
            name = str(file.relative_to(path))
            try:
                read[split].append(read_image(file))
                names.append(name)
            except (DataError, UsageError) as error:
                unreadable += [f"{name}: {each}" for each in getattr(error, "faults", (error.message,))]
    odd = list(_odd_kinds([image for images in read.values() for image in images], names))
    faults += odd + unreadable
    labels = {split: np.array([index for _, index in listed], np.int64) for split, listed in files.items()}
    if odd or unreadable:
        return {}, labels
    return {split: np.stack(images) for split, images in read.items() if images}, labels


def _members(folder: Path) -> list[Path]:
    """What stands in a folder, by name, hidden things left out; nothing if it is no folder."""
    if not folder.is_dir():
        return []
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise DataError(folder, [f"cannot be read: {error.strerror}"], remedy="check its permissions") from error


# --- faults -----------------------------------------------------------------------------------------------------------


def _set_faults(found: _Found, for_training: bool) -> Iterator[str]:
    """What is wrong with the set as a whole, as far as its parts could be read."""
    classes = found.classes or ()
    if len(set(classes)) != len(classes):
        yield f"classes: a name is given twice in {', '.join(classes)}"
    for split, targets in found.labels.items():
        yield from classification.label_faults(targets, len(classes), f"{split} labels")
        if not len(targets):
            yield f"{split}: no images"
    if for_training and "train" in found.labels and classes:
        yield from classification.class_faults(found.labels["train"], classes, "train")
    kinds = {split: _kind(images[0]) for split, images in found.images.items() if len(images)}
    if len(set(kinds.values())) > 1:
        yield f"test images are {kinds['test']}, those of train {kinds['train']}"
    bands = _names(found.about.get("bands"))
    if bands and "train" in found.images and len(bands) != found.images["train"].shape[1]:
        yield f"bands: {len(bands)} names for images of {found.images['train'].shape[1]} bands"


def _odd_kinds(images: Sequence[np.ndarray], names: Sequence[str]) -> Iterator[str]:
    """One sentence for each size, band count and dtype that differs from what most images have."""
    kinds = Counter(_kind(image) for image in images)
    (usual, most), *odd = kinds.most_common() or [("", 0)]
    for kind, count in odd:
        examples = [name for image, name in zip(images, names, strict=True) if _kind(image) == kind][:_EXAMPLES]
        shown = ", ".join(examples) + (", ..." if count > _EXAMPLES else "")
        yield f"{count} of {len(images)} images are {kind}, while {most} are {usual}: {shown}"


def _kind(image: np.ndarray) -> str:
    bands, height, width = image.shape
    return f"{width}x{height} pixels with {bands} band{'' if bands == 1 else 's'} of {image.dtype}"


def _shortened(faults: Sequence[str]) -> list[str]:
    """The first faults, and how many more there are."""
    if len(faults) <= _LISTED:
        return list(faults)
    return [*faults[:_LISTED], f"... and {len(faults) - _LISTED} more"]


# --- descriptions -----------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    """A string attribute or 0-d array as str."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _names(value: Any) -> tuple[str, ...] | None:
    """Names from a JSON list or an array; None if there are none."""
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return tuple(_text(each) for each in value) or None
    try:
        listed = json.loads(_text(value))
    except ValueError:
        return None
    return tuple(str(each) for each in listed) or None if isinstance(listed, list) else None
