"""Data sets as folders of image files, one folder per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fieldkit.errors import DataError
from fieldkit.field.datasets.decoding import Decoding
from fieldkit.field.datasets.found import SPLITS, Found
from fieldkit.field.datasets.storage import Storage
from fieldkit.field.images.imagery import is_image_file, read_image

_REMEDY = "mend, resize, add or remove what is named, then run it again"


def recognises(path: Path) -> bool:
    """True for a folder."""
    return path.is_dir()


def read(path: Path, storage: Storage) -> Found:
    """The data set in a folder: ``train/CLASS/*`` with an optional ``test/CLASS/*``, or ``CLASS/*``."""
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
    images, labels = _read_files(path, files, faults, storage)
    return Found(images, labels, classes, faults, _REMEDY)


def _read_files(
    path: Path, files: Mapping[str, Sequence[tuple[Path, int]]], faults: list[str], storage: Storage
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Images and labels by split; images only if all files are readable and alike."""
    decoding = Decoding()
    images = {}
    for split, listed in files.items():
        decoders = ((str(file.relative_to(path)), partial(read_image, file)) for file, _ in listed)
        images[split] = decoding.images(split, len(listed), decoders, storage)
    broken = [*decoding.odd, *decoding.unreadable]
    faults += broken
    labels = {split: np.array([index for _, index in listed], np.int64) for split, listed in files.items()}
    return {split: each for split, each in images.items() if each is not None and not broken}, labels


def _members(folder: Path) -> list[Path]:
    """What stands in a folder, by name, hidden things left out; nothing if it is no folder."""
    if not folder.is_dir():
        return []
    try:
        return sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise DataError(folder, [f"cannot be read: {error.strerror}"], remedy="check its permissions") from error
