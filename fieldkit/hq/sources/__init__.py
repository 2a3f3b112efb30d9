"""Where HQ's data sets come from: a path (HDF5, npz, image folder: fieldkit.field.datasets), or one of these words.

A new source is one file and one line in this table.
"""

import os
from collections.abc import Callable
from pathlib import Path

from fieldkit.errors import UsageError
from fieldkit.field.datasets import Dataset, check_enough, load_dataset
from fieldkit.field.datasets.storage import IN_MEMORY, Storage
from fieldkit.hq.sources import digits

__all__ = ["SOURCES", "Dataset", "check_enough", "load"]

SOURCES: dict[str, Callable[[], Dataset]] = {"digits": digits.load}


def load(where: str | Path, storage: Storage = IN_MEMORY) -> Dataset:
    """The data set that ``where`` names: a word of the table, else a path, whose images are put into ``storage``.

    A file or folder that is called like a word is meant by writing it as a path: ``./digits``.

    Raises UsageError if there is none, DataError that lists all faults of the data, ResourceError if the images do not
    fit where they are put.
    """
    if str(where) in SOURCES:
        return SOURCES[str(where)]()
    if not os.path.exists(where):
        words = ", ".join(sorted(SOURCES))
        raise UsageError("no data there", where=where, expected=f"a file, a folder, or one of: {words}")
    return load_dataset(where, storage=storage)
