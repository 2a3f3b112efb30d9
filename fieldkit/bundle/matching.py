"""Where a new file repeats bytes of an old one.

Every WINDOW-th window of the old bytes is noted by a 64-bit mix of its words; every window of the new is looked up.
What is found is compared byte by byte and grown in both directions, so that no run of 2 x WINDOW equal bytes is missed,
but for bytes that stand in the old file more than once.
The method is that of rsync (Tridgell 1999, chapter 3), with whole-array arithmetic in place of a rolling sum.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WINDOW = 32
_WORDS = WINDOW // 8
_BLOCK = 1 << 22
# Odd 64-bit numbers, from the fractions of square roots, that tell the words of a window apart.
_FACTORS = np.array([0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1], dtype=np.uint64)


def copies(old: bytes, new: bytes) -> Iterator[tuple[int, int, int]]:
    """(place in ``new``, place in ``old``, length) of runs to copy, in the order of ``new`` and without overlap."""
    starts = np.arange(0, max(len(old) - WINDOW + 1, 0), WINDOW)
    marks, first = np.unique(_mixed(old, starts), return_index=True)
    if not len(marks):
        return
    done = 0
    for begin in range(0, max(len(new) - WINDOW + 1, 0), _BLOCK):
        places = np.arange(begin, min(begin + _BLOCK, len(new) - WINDOW + 1))
        mixed = _mixed(new, places)
        found = np.minimum(np.searchsorted(marks, mixed), len(marks) - 1)
        for hit in np.flatnonzero(marks[found] == mixed):
            target, source = int(places[hit]), int(starts[first[found[hit]]])
            if target < done or old[source : source + WINDOW] != new[target : target + WINDOW]:
                continue
            back = _equal_before(old, new, source, target, target - done)
            length = back + WINDOW + _equal_after(old, new, source + WINDOW, target + WINDOW)
            done = target - back + length
            yield target - back, source - back, length


def _mixed(data: bytes, places: np.ndarray) -> np.ndarray:
    """A uint64 for the window at each place."""
    if not len(places):
        return np.empty(0, np.uint64)
    # Every window of eight bytes as a number, whether aligned or not; nothing is copied.
    words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    mixed = np.zeros(len(places), np.uint64)
    for word in range(_WORDS):
        mixed ^= words[places + 8 * word] * _FACTORS[word]
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _equal_after(old: bytes, new: bytes, source: int, target: int) -> int:
    """How many bytes are equal from these places on."""
    most, length = min(len(old) - source, len(new) - target), 0
    step = 1 << 16
    while length < most:
        end = min(length + step, most)
        if old[source + length : source + end] == new[target + length : target + end]:
            length = end
        elif step == 1:
            break
        else:
            step = max(step // 16, 1)
    return length


def _equal_before(old: bytes, new: bytes, source: int, target: int, most: int) -> int:
    """How many bytes are equal before these places, at most ``most``."""
    length, most = 0, min(most, source)
    while length < most and old[source - length - 1] == new[target - length - 1]:
        length += 1
    return length
