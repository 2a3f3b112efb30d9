"""Checks of an architecture's options; ``where`` names the option, such as "convnet depth"."""

from __future__ import annotations

from collections.abc import Sequence

from fieldkit.errors import UsageError


def check_whole(where: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"must be a whole number of at least {least}", where=where, found=value)


def check_multiple(where: str, value: int, of: int, reason: str) -> None:
    """Refuse a number that ``of`` does not divide."""
    if value % of:
        raise UsageError(f"{reason} needs a multiple of {of}", where=where, found=value)


def check_share(where: str, value: object) -> None:
    """Refuse what is not a number from 0 to below 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise UsageError("must be a number from 0 to below 1", where=where, found=value)


def check_kind(where: str, value: object, valid: Sequence[str]) -> None:
    """Refuse what is not one of ``valid``."""
    if value not in valid:
        raise UsageError("unknown kind", where=where, found=value, expected=" or ".join(valid))


def image_error(
    where: str, input_shape: tuple[int, int, int], reason: str, *, expected: str, remedy: str
) -> UsageError:
    """The error for images of (channels, height, width) that an architecture cannot take."""
    found = f"{input_shape[1]}x{input_shape[2]} pixels"
    return UsageError(f"the image is {reason}", where=where, found=found, expected=expected, remedy=remedy)


def check_flag(where: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool):
        raise UsageError("must be true or false", where=where, found=value)
