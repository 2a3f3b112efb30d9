"""Images that come as one encoded file each: decoded one after the other, and what is wrong with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from fieldkit.errors import DataError, UsageError
from fieldkit.field.datasets.found import kind, odd_kinds
from fieldkit.field.datasets.storage import Storage


class Decoding:
    """Decodes the images of one or more splits, which must all be of one kind.

    unreadable: one sentence for each image that could not be read, so far.
    """

    def __init__(self) -> None:
        self.unreadable: list[str] = []
        self._kinds: list[str] = []
        self._places: list[str] = []

    @property
    def odd(self) -> list[str]:
        """One sentence for each kind of image that differs from the usual one, so far."""
        return list(odd_kinds(self._kinds, self._places))

    def images(
        self, split: str, count: int, files: Iterable[tuple[str, Callable[[], np.ndarray]]], storage: Storage
    ) -> np.ndarray | None:
        """The split's images [count, c, h, w]; None if there are none, or not all can be read and are alike.

        files: each one's place, for messages, and what decodes it to [c, h, w].
        """
        images = self._decoded(files)
        first = next(images, None)
        if first is None:
            return None
        # All are looked at, so that all faults are found.
        alike = (
            each[None]
            for each in itertools.chain([first], images)
            if (each.shape, each.dtype) == (first.shape, first.dtype)
        )
        return storage.put(split, (count, *first.shape), first.dtype, alike)

    def _decoded(self, files: Iterable[tuple[str, Callable[[], np.ndarray]]]) -> Iterator[np.ndarray]:
        for place, decode in files:
            try:
                image = decode()
            except (DataError, UsageError) as error:
                self.unreadable += [f"{place}: {each}" for each in getattr(error, "faults", (error.message,))]
                continue
            self._kinds.append(kind(image))
            self._places.append(place)
            yield image
