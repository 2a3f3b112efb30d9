"""The memory: never over its bytes, balanced over the classes, and what is given up first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.bundle.pixels import Pixels
from fieldkit.errors import ResourceError
from fieldkit.field.learning.memory import DISTILLED, OWN, Memory, Part, fitted


def part(classes: list[int], *, kind: str = OWN, side: int = 4, source: str = "own", width: int = 0) -> Part:
    """Images of these classes; each has its number in its first pixel."""
    count = len(classes)
    codes = np.zeros((count, 1, side, side), np.uint8)
    codes[:, 0, 0, 0] = np.arange(count)
    pixels = Pixels(codes, np.ones(1, np.float32), np.zeros(1, np.float32))
    slots = np.array(classes, np.uint16)
    labels = np.eye(max(width, 1), dtype=np.float16)[slots] if width else None
    return Part(kind, source, pixels, slots, np.arange(count) / max(count, 1), labels)


parts = st.lists(
    st.builds(
        part,
        st.lists(st.integers(0, 4), min_size=1, max_size=30),
        kind=st.sampled_from([OWN, DISTILLED]),
        side=st.integers(2, 5),
        width=st.sampled_from([0, 5]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200)
@given(parts, st.integers(1, 4000))
def test_a_memory_is_never_over_its_limit_and_gives_up_from_the_largest_class(held: list[Part], limit: int) -> None:
    slots = {int(slot) for each in held for slot in each.classes}
    try:
        memory = fitted(held, limit)
    except ResourceError:
        dearest = max(each.cost for each in held)
        fixed = sum(each.pixels.scale.nbytes + each.pixels.offset.nbytes for each in held)
        assert limit < fixed + 2 * dearest * len(slots)
        return
    assert memory.bytes <= limit
    counts = {slot: sum(int((each.classes == slot).sum()) for each in memory.parts) for slot in slots}
    assert min(counts.values()) >= 1
    taken = {slot: sum(int((each.classes == slot).sum()) * each.cost for each in memory.parts) for slot in slots}
    before = {slot: sum(int((each.classes == slot).sum()) * each.cost for each in held) for slot in slots}
    trimmed = [slot for slot in slots if taken[slot] < before[slot]]
    for slot in trimmed:
        # Before it gave up its last one, it was the largest.
        assert taken[slot] + max(each.cost for each in held) >= max(taken.values())


def test_bytes_are_those_of_all_arrays() -> None:
    held = part([0, 1, 2], width=3)
    assert held.labels is not None
    arrays = (held.pixels.codes, held.pixels.scale, held.pixels.offset, held.classes, held.ranks, held.labels)
    assert held.bytes == sum(each.nbytes for each in arrays)
    assert Memory(10_000, (held, held)).bytes == 2 * held.bytes


def test_a_class_gives_up_its_own_samples_before_distilled_ones_and_the_highest_rank_first() -> None:
    own, distilled = part([0] * 6), part([0] * 4, kind=DISTILLED, source="bundle")
    room = own.bytes + distilled.bytes - 3 * own.cost
    memory = fitted([own, distilled], room)
    assert [len(each) for each in memory.parts] == [3, 4]
    assert memory.parts[0].pixels.codes[:, 0, 0, 0].tolist() == [0, 1, 2]
    less = fitted(memory.parts, memory.bytes - 3 * own.cost - own.pixels.scale.nbytes * 2 - 1)
    assert [(each.kind, len(each)) for each in less.parts] == [(DISTILLED, 3)]
    assert less.parts[0].pixels.codes[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_what_is_left_is_balanced_over_the_classes() -> None:
    held = part([0] * 50 + [1] * 20 + [2] * 3)
    memory = fitted([held], 8 + 23 * held.cost)
    assert memory.counts(4).tolist() == [10, 10, 3, 0]


def test_too_small_for_every_class_is_said_with_what_it_would_need() -> None:
    held = part([0, 1, 2])
    with pytest.raises(ResourceError, match=r"every class.*at least 86 for 3 classes"):
        Memory(8 + 2 * held.cost).with_parts([held])
    assert len(Memory(8 + 3 * held.cost).with_parts([held])) == 3


def test_a_memory_over_its_limit_cannot_be_made() -> None:
    with pytest.raises(ResourceError, match="over its limit"):
        Memory(10, (part([0, 1]),))


def test_one_source_leaves() -> None:
    memory = Memory(10_000, (part([0, 1]), part([2], kind=DISTILLED, source="bundle")))
    assert (memory.held("own"), memory.held("bundle")) == (2, 1)
    assert [each.source for each in memory.without("own").parts] == ["bundle"]


def test_samples_are_decoded_enlarged_and_labelled_over_all_slots() -> None:
    codes = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    pixels = Pixels(codes, np.array([2.0], np.float32), np.array([5.0], np.float32))
    soft = np.array([[0.75, 0.25], [0.25, 0.75]], np.float16)
    answers = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], np.float16)
    held = Part(DISTILLED, "bundle", pixels, np.array([0, 1], np.uint16), np.zeros(2), soft, answers)
    made = held.samples((2, 2), 4)
    assert np.array_equal(made.images, codes * 2.0 + 5.0)
    assert made.targets.tolist() == [[0.75, 0.25, 0, 0], [0.25, 0.75, 0, 0]]
    mixed = held.samples((4, 4), 4, 0.5)
    assert mixed.images.shape == (2, 1, 4, 4)
    assert mixed.targets.tolist() == [[0.625, 0.375, 0, 0], [0.125, 0.375, 0.5, 0]]
    assert part([2, 0]).samples((4, 4), 3).targets.tolist() == [[0, 0, 1], [1, 0, 0]]
