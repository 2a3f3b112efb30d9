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

import os
from dataclasses import dataclass
from pathlib import Path

from fieldkit.bundle.radiometry import default_bands
from fieldkit.bundle.samples import Samples
from fieldkit.errors import DataError, UsageError
from fieldkit.field.datasets import folder, hdf5, npz
from fieldkit.field.datasets.found import Found, names, set_faults, shortened, text
from fieldkit.field.datasets.storage import IN_MEMORY, Storage
from fieldkit.tasks import classification

# One file per kind; a file's content decides, not its name.
READERS = (folder, hdf5, npz)


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


def load_dataset(where: str | Path, *, for_training: bool = True, storage: Storage = IN_MEMORY) -> Dataset:
    """The data set at a path.

    for_training: require at least two classes, each with samples in train; a set that only scores a model need not.
    storage: where its images are put; by default in memory.

    Raises UsageError if there is nothing at the path, DataError that lists all faults of the data, ResourceError if
    the images do not fit where they are put.
    """
    path = Path(where)
    found = _read(path, storage)
    faults = [*set_faults(found, for_training), *found.faults]
    if faults:
        raise DataError(path, shortened(faults), remedy=found.remedy)
    splits = {split: Samples(found.images[split], found.labels[split]) for split in found.images}
    about = found.about
    return Dataset(
        train=splits["train"],
        test=splits.get("test"),
        classes=found.classes,
        name=path.stem if path.is_file() else path.resolve().name,
        licence=text(about.get("licence", about.get("license", ""))),
        source=text(about.get("source", path.name)),
        bands=names(about.get("bands")) or default_bands(splits["train"].images.shape[1]),
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
        raise DataError(dataset.name, shortened(faults), remedy=remedy)


def _read(path: Path, storage: Storage) -> Found:
    """What the reader for this kind of data set finds at a path."""
    # os.path answers no where pathlib would raise: for a name that is too long, say.
    if not os.path.exists(path):
        raise UsageError("no data there", where=path, found="nothing", remedy="check the path")
    if not os.access(path, os.R_OK):
        raise UsageError("cannot be read", where=path, found="no permission", remedy="check the permissions")
    reader = next((each for each in READERS if each.recognises(path)), None)
    if reader is None:
        expected = "an HDF5 or npz file, or a folder of images"
        raise DataError(path, [f"unknown kind of file; expected {expected}"], remedy="convert it")
    found: Found = reader.read(path, storage)
    return found
