"""What a reader gathers, and the sentences that say what is wrong with it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fieldkit.bundle.manifest import class_name_fits
from fieldkit.tasks import classification

SPLITS = ("train", "test")
_LISTED = 20
_EXAMPLES = 3


@dataclass
class Found:
    """Arrays by split, descriptions, and the faults that were met on the way.

    images: uint8 | uint16 [n, c, h, w]; a split whose images cannot be used is left out.
    labels: int64 [n].
    about: whatever describes the set: "licence", "source", "bands".
    remedy: what to do about faults of this kind of data set.
    """

    images: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    faults: Sequence[str]
    remedy: str
    about: Mapping[str, Any] = field(default_factory=dict)


def set_faults(found: Found, for_training: bool) -> Iterator[str]:
    """What is wrong with the set as a whole, as far as its parts could be read."""
    classes = found.classes
    if len(set(classes)) != len(classes):
        yield f"classes: a name is given twice in {', '.join(classes)}"
    for name in classes:
        if not class_name_fits(name):
            yield f"classes: {name!r} is no name; expected at least one character, no control characters, valid UTF-8"
    for split, targets in found.labels.items():
        yield from classification.label_faults(targets, len(classes), f"{split} labels")
        if not len(targets):
            yield f"{split}: no images"
    if for_training and "train" in found.labels and classes:
        yield from classification.class_faults(found.labels["train"], classes, "train")
    kinds = {split: kind(images[0]) for split, images in found.images.items() if len(images)}
    if len(set(kinds.values())) > 1:
        yield f"test images are {kinds['test']}, those of train {kinds['train']}"
    bands = names(found.about.get("bands"))
    if bands and "train" in found.images and len(bands) != found.images["train"].shape[1]:
        yield f"bands: {len(bands)} names for images of {found.images['train'].shape[1]} bands"


def odd_kinds(kinds: Sequence[str], places: Sequence[str]) -> Iterator[str]:
    """One sentence for each kind of image (``kind``) that differs from what most images are."""
    (usual, most), *odd = Counter(kinds).most_common() or [("", 0)]
    for other, count in odd:
        examples = [place for each, place in zip(kinds, places, strict=True) if each == other][:_EXAMPLES]
        shown = ", ".join(examples) + (", ..." if count > _EXAMPLES else "")
        yield f"{count} of {len(kinds)} images are {other}, while {most} are {usual}: {shown}"


def kind(image: np.ndarray) -> str:
    """Size, band count and dtype of an image [c, h, w], for people."""
    bands, height, width = image.shape
    return f"{width}x{height} pixels with {bands} band{'' if bands == 1 else 's'} of {image.dtype}"


def shortened(faults: Sequence[str]) -> list[str]:
    """The first faults, and how many more there are."""
    if len(faults) <= _LISTED:
        return list(faults)
    return [*faults[:_LISTED], f"... and {len(faults) - _LISTED} more"]


def text(value: Any) -> str:
    """A string attribute or 0-d array as str."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def names(value: Any) -> tuple[str, ...] | None:
    """Names from a JSON list or an array; None if there are none."""
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return tuple(text(each) for each in value) or None
    try:
        listed = json.loads(text(value))
    except (ValueError, RecursionError):
        return None
    return tuple(str(each) for each in listed) or None if isinstance(listed, list) else None
