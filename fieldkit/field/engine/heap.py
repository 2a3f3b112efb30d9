"""What the C library does with memory that is freed: back to the system at once, or kept for what comes next.

Settings of glibc's ``mallopt`` for the whole process; other C libraries have none, and are left as they are.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_LARGE, _MANY = 1 << 18, 1 << 16
_NEVER = (1 << 31) - 1


def give_back_memory() -> None:
    """Map each block of 256 KiB or more for itself, so that a freed one goes back at once.

    Else it is kept for later, in pieces, and a session without an arena takes more than one with it.
    """
    # As they are at first, in case ``keep_memory`` was asked for before.
    _set(_MMAP_MAX, _MANY)
    _set(_TRIM_THRESHOLD, _LARGE // 2)
    _set(_MMAP_THRESHOLD, _LARGE)


def keep_memory() -> None:
    """Keep what is freed.  A program that allocates the same large tensors again and again gains by it.

    Else each is mapped anew, and the kernel clears all of its pages: an iteration of ``ridge`` with 512 images of 28x28
    pixels and a ConvNet-3 of width 64 took 0.74 s in place of 0.35.
    """
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, _NEVER)


def _set(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(parameter, value)
