"""The state file: what goes in comes out, damage is refused, and nothing in it is taken on trust."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tasks

from fieldkit import first_state, learn, read_state, write_state
from fieldkit.bundle.recipe import Initial
from fieldkit.errors import DamagedBundle, UsageError
from fieldkit.field.learning import container
from fieldkit.field.learning.continual import Options
from fieldkit.field.learning.memory import Memory
from fieldkit.field.learning.state import MAGIC, State, decode, encode, is_closed


@pytest.fixture(scope="module")
def state() -> State:
    """After a bundle, the device's own samples, and another bundle; answers are remembered."""
    made = first_state(tasks.bundle(0), limit=4000)
    for source in (tasks.bundle(0), tasks.dataset(2, 20), tasks.bundle(4, probe=0)):
        made = learn(made, source, Options(answers=0.25))
    return made


def same(one: object, other: object) -> bool:
    """Whether two states hold the same, arrays compared by dtype and value."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dataclass_fields__"):
        return type(one) is type(other) and same(vars(one), vars(other))
    return one == other


def test_what_goes_in_comes_out(state: State, tmp_path: Path) -> None:
    size = write_state(tmp_path / "device.state", state)
    found = read_state(tmp_path / "device.state")
    assert same(found, state)
    assert encode(found) == encode(state)
    assert size == (tmp_path / "device.state").stat().st_size
    assert not is_closed(tmp_path / "device.state")
    assert sum(each.bytes for each in found.memory.parts) == state.memory.bytes


def test_stored_first_weights_come_along(state: State) -> None:
    weights = {each.name: np.full(each.shape, 0.5, np.float16) for each in state.recipe.parameters}
    fixed = replace(state, recipe=replace(state.recipe, initial=Initial(weights=weights)))
    assert same(decode(encode(fixed), "state"), fixed)


def test_a_state_goes_on_from_its_file_as_if_it_had_never_been_written(state: State) -> None:
    other = tasks.bundle(0, 4, name="more")
    direct, stored = learn(state, other), learn(decode(encode(state), "state"), other)
    assert encode(direct) == encode(stored)


def test_damage_is_refused(state: State, tmp_path: Path) -> None:
    content = encode(state)
    for place in (0, 7, 8, 40, 48, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 4
        with pytest.raises(DamagedBundle):
            decode(bytes(changed), "state")
    for cut in (b"", content[:20], content[:-1], content + b"x", b"something else"):
        (tmp_path / "cut").write_bytes(cut)
        with pytest.raises(DamagedBundle):
            read_state(tmp_path / "cut")
    with pytest.raises(UsageError, match="no such state"):
        read_state(tmp_path / "nothing")


def lies(state: State) -> dict[str, State]:
    """States whose parts do not fit together."""
    memory, tasks_ = state.memory, state.tasks
    first, probe = memory.parts[0], state.tasks[0].probe
    assert probe is not None

    def with_part(**changes: object) -> State:
        changed = replace(first, **changes)  # type: ignore[arg-type]
        return replace(state, memory=Memory(10**9, (changed, *memory.parts[1:])))

    def with_task(**changes: object) -> State:
        return replace(state, tasks=(replace(tasks_[0], **changes), *tasks_[1:]))  # type: ignore[arg-type]

    wide = np.zeros((len(first), 1, 9, 9), np.uint8)
    return {
        "weights missing": replace(state, weights={}),
        "weights of another shape": replace(state, weights={name: each[:1] for name, each in state.weights.items()}),
        "weights no numbers": replace(state, weights={name: each * np.nan for name, each in state.weights.items()}),
        "weights of another dtype": replace(
            state, weights={name: each.astype(np.float64) for name, each in state.weights.items()}
        ),
        "a class that is not in use": with_part(classes=first.classes + np.uint16(6)),
        "classes of another dtype": with_part(classes=first.classes.astype(np.int64)),
        "fewer ranks than images": with_part(ranks=first.ranks[:1]),
        "fewer labels than images": with_part(labels=np.ones((1, 2), np.float16)),
        "labels of more classes than there are": with_part(labels=np.ones((len(first), 7), np.float16)),
        "images larger than the model's": with_part(pixels=replace(first.pixels, codes=wide)),
        "two scales for one band": with_part(pixels=replace(first.pixels, scale=np.ones(2, np.float32))),
        "a slot beyond the classes": with_task(slots=(0, 99)),
        "scores of too many tasks": with_task(scores=(1.0,) * 9),
        "a probe of another size": with_task(probe=replace(probe, images=probe.images[:, :, :2])),
        "a probe of another dtype": with_task(probe=replace(probe, images=probe.images.astype(np.uint16))),
        "a probe of unknown classes": with_task(probe=replace(probe, targets=probe.targets + 6)),
        "a probe with fewer labels": with_task(probe=replace(probe, targets=probe.targets[:1])),
    }


def test_parts_that_do_not_fit_together_are_refused(state: State) -> None:
    assert decode(encode(state), "state") is not None
    taken = []
    for what, lie in lies(state).items():
        with suppress(DamagedBundle):
            decode(encode(lie), "state")
            taken.append(what)
    assert taken == []


def test_a_memory_over_its_own_limit_is_refused(state: State) -> None:
    about, arrays = container.unpack(encode(state), MAGIC, "state")
    with pytest.raises(DamagedBundle, match="over its limit"):
        decode(container.pack(MAGIC, about | {"limit": 10}, arrays), "state")


def test_unknown_and_missing_arrays_are_refused(state: State) -> None:
    about, arrays = container.unpack(encode(state), MAGIC, "state")
    with pytest.raises(DamagedBundle, match="unknown arrays more"):
        decode(container.pack(MAGIC, about, arrays | {"more": np.zeros(1)}), "state")
    for missing in ("part/0/codes", "part/1/ranks", "task/0/targets"):
        fewer = {name: each for name, each in arrays.items() if name != missing}
        with pytest.raises(DamagedBundle, match="do not fit together"):
            decode(container.pack(MAGIC, about, fewer), "state")
    with pytest.raises(DamagedBundle, match="unknown key"):
        decode(container.pack(MAGIC, about | {"more": 1}, arrays), "state")
