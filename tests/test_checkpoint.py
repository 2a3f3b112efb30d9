"""Training states on disk: whole or refused, two generations, one job never another's."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.errors import DamagedBundle, FieldkitError, ResourceError, UsageError
from fieldkit.field.endurance.checkpoint import HEAD, MAGIC, Checkpoints, Snapshot, state_folder
from fieldkit.field.engine.training import TrainingState

JOB = {"recipe": "linear", "seed": 3}


def snapshot(step: int = 5, job: dict[str, object] = JOB, fill: float = 0.5) -> Snapshot:
    tensors = {"param.weight": np.full((3, 2), fill, np.float32), "state.scalar": np.array(step, np.float32)}
    return Snapshot(job, TrainingState(tensors, step), np.arange(step, dtype=np.float32), {"threads": 2, "steps": 9})


def same(one: Snapshot, other: Snapshot) -> bool:
    return one.encode() == other.encode()


class Mirror:
    """A sealer that anybody can open: every bit turned, and a mark."""

    def close(self, data: bytes) -> bytes:
        return b"sealed" + bytes(255 - each for each in data)

    def open(self, data: bytes) -> bytes:
        if not data.startswith(b"sealed"):
            raise DamagedBundle("not sealed")
        return bytes(255 - each for each in data[6:])


shapes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)) | st.just(()), max_size=4)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 30), st.integers(0, 2**32))
def test_what_is_encoded_is_decoded(shapes: list[tuple[int, ...]], step: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = {f"param.{i}": rng.standard_normal(shape).astype(np.float32) for i, shape in enumerate(shapes)}
    losses = rng.standard_normal(step).astype(np.float32)
    given = Snapshot(JOB, TrainingState(tensors, step), losses, {"threads": 1, "steps": 30})
    read = Snapshot.decode(bytes(given.encode()), "here")
    assert (read.job, read.decided, read.state.step) == (JOB, given.decided, step)
    assert np.array_equal(read.losses, losses)
    assert list(read.state.tensors) == list(tensors)
    for name, values in tensors.items():
        assert read.state.tensors[name].shape == values.shape
        assert np.array_equal(read.state.tensors[name], values)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_bit_or_length_is_refused(data: st.DataObject) -> None:
    content = bytearray(snapshot().encode())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        kept = data.draw(st.integers(0, len(content) - 1))
        del content[kept:]
    with pytest.raises(DamagedBundle):
        Snapshot.decode(bytes(content), "here")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_header_that_lies_under_a_sound_checksum_is_refused(header: bytes, length: int) -> None:
    rest = length.to_bytes(8, "little") + header
    with pytest.raises(DamagedBundle):
        Snapshot.decode(MAGIC + hashlib.sha256(rest).digest() + rest, "here")


def test_the_layout_is_the_documented_one() -> None:
    content = bytes(snapshot(1).encode())
    length = int.from_bytes(content[40:48], "little")
    assert content[:8] == b"fkstate\x01"
    assert content[8:40] == hashlib.sha256(content[40:]).digest()
    assert HEAD == 48
    assert content[48 : 48 + length].startswith(b'{"decided":')
    assert np.frombuffer(content[48 + length :], "<f4").tolist() == [0, *[0.5] * 6, 1]


@pytest.mark.parametrize("sealer", [None, Mirror()], ids=["open", "sealed"])
def test_generations_take_turns_and_the_newest_is_read(tmp_path: Path, sealer: Mirror | None) -> None:
    checkpoints = Checkpoints(tmp_path / "state", sealer)
    assert checkpoints.newest(JOB) == (None, [])
    for step in (1, 2, 3):
        checkpoints.save(snapshot(step))
    assert len(list((tmp_path / "state").iterdir())) == 2
    checkpoints.close()
    again = Checkpoints(tmp_path / "state", sealer)
    found, faults = again.newest(JOB)
    assert found is not None
    assert same(found, snapshot(3))
    assert faults == []
    again.close()


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_damaged_newest_generation_gives_way_to_the_older(tmp_path: Path, damage: bytes | None) -> None:
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.save(snapshot(1))
    checkpoints.save(snapshot(2))
    (newest,) = (path for path in (tmp_path / "state").iterdir() if path.read_bytes() == bytes(snapshot(2).encode()))
    newest.write_bytes(newest.read_bytes()[:-1] + b"?" if damage is None else damage)
    found, faults = checkpoints.newest(JOB)
    assert found is not None
    assert same(found, snapshot(1))
    assert len(faults) == 1
    assert str(newest) in faults[0]
    # The next save goes over the damaged one, not over the good one.
    checkpoints.save(snapshot(4))
    assert {Snapshot.decode(path.read_bytes(), path).state.step for path in (tmp_path / "state").iterdir()} == {1, 4}
    checkpoints.close()


def test_a_job_keeps_to_its_own_states(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "state")
    other = {"recipe": "linear", "seed": 4}
    checkpoints.save(snapshot(7))
    assert checkpoints.newest(other) == (None, [])
    (path,) = checkpoints.others(other)
    assert checkpoints.describe(path) == JOB
    checkpoints.save(snapshot(2, other))
    checkpoints.forget(other)
    found, _ = checkpoints.newest(JOB)
    assert found is not None
    assert found.state.step == 7
    checkpoints.remove()
    assert not (tmp_path / "state").exists()
    checkpoints.close()


def test_a_job_whose_digest_collides_is_still_another_job(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.save(snapshot(7))
    (path,) = (tmp_path / "state").iterdir()
    (name,) = (each for each in checkpoints._generations({"seed": 1}) if each.name.endswith("-0"))
    path.rename(name)
    assert checkpoints.newest({"seed": 1}) == (None, [])
    checkpoints.close()


def test_two_processes_do_not_train_for_one_output(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom fieldkit.errors import UsageError\n"
        "from fieldkit.field.endurance.checkpoint import Checkpoints\n"
        "try:\n    Checkpoints(Path(sys.argv[1])).lock()\nexcept UsageError as error:\n    print(error)\n"
    )
    checkpoints = Checkpoints(tmp_path / "state")
    checkpoints.lock()
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    assert "another fieldkit is at work" in subprocess.run(command, capture_output=True, text=True).stdout
    checkpoints.close()
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_what_a_kill_left_of_a_save_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "state")
    left = tmp_path / "state" / ".fieldkit-0123.part"
    left.write_bytes(b"half of")
    checkpoints.lock()
    assert not left.exists()
    checkpoints.close()


def test_an_empty_folder_goes_and_a_result_takes_its_place_whole(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "state")
    target = tmp_path / "model.onnx"
    checkpoints.write(target, b"model", 0o640)
    assert target.read_bytes() == b"model"
    assert target.stat().st_mode & 0o777 == 0o640
    checkpoints.close()
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FieldkitError) as caught:
        Checkpoints(tmp_path / "file" / "state")
    assert isinstance(caught.value, UsageError | ResourceError)


def test_the_folder_is_beside_the_file_that_a_link_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real" / "model.onnx")
    assert state_folder(tmp_path / "link.onnx") == (tmp_path / "real" / ".model.onnx.state").resolve()
