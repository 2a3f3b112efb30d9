"""Missions: cut anywhere and resumed they end with the same bits; they keep to budgets and tell what they cannot do."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldkit.bundle.recipe import Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.errors import Diverged, Interrupted, ResourceError, UsageError
from fieldkit.field.endurance import budget, checkpoint
from fieldkit.field.endurance import mission as flight
from fieldkit.field.endurance.budget import affordable
from fieldkit.field.endurance.interruption import asked_to_stop
from fieldkit.field.endurance.mission import Conditions, Job, Mission
from fieldkit.field.engine.training import Options, Progress, Trained, Trainer, begin, fit

RECIPE = handmade.recipe(aug=True)


def samples(count: int = 20) -> Samples:
    given = handmade.images(count)
    return Samples(given.images.astype(np.float32), np.eye(3, dtype=np.float32)[given.targets])


JOB = Job(RECIPE, samples(), seed=5)


class CutError(Exception):
    """Stands for a loss of power: nothing in a mission knows it."""


def cut_at(step: int) -> Progress:
    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise CutError

    return progress


def stopped_at(step: int, number: int = signal.SIGINT) -> Progress:
    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            os.kill(os.getpid(), number)

    return progress


def flown(folder: Path, job: Job = JOB, progress: Progress | None = None, **conditions: object) -> Trained:
    """One attempt at a mission; what it learnt."""
    with Mission(folder, Conditions(threads=1, **conditions)) as mission:  # type: ignore[arg-type]
        trained = mission.train(job, progress)
        mission.finish()
    return trained


def same(one: Trained, other: Trained) -> bool:
    return np.array_equal(one.losses, other.losses) and all(
        np.array_equal(one.weights[name], values) for name, values in other.weights.items()
    )


@pytest.fixture(scope="module")
def whole() -> Trained:
    return fit(RECIPE, JOB.samples, Options(seed=5, threads=1))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 20), max_size=3))
def test_cut_anywhere_it_ends_with_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, whole: Trained, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("cut") / "state"
    for cut in cuts:
        with suppress(CutError):
            flown(folder, progress=cut_at(cut), every=0.0)
    assert same(flown(folder), whole)
    assert not folder.exists()


def test_it_goes_on_at_the_step_it_had_saved_and_says_so(tmp_path: Path, whole: Trained) -> None:
    with pytest.raises(Interrupted):
        flown(tmp_path / "state", progress=stopped_at(7))
    told: list[str] = []
    seen: list[int] = []
    with Mission(tmp_path / "state", Conditions(tell=told.append)) as mission:
        trained = mission.train(JOB, lambda done, total, loss: seen.append(done))
        assert mission.resumed == 7
    assert seen == list(range(8, 21))
    assert told == [f"going on from step 7, which {tmp_path / 'state'} holds"]
    assert same(trained, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_saves_its_step_and_is_resumed(tmp_path: Path, whole: Trained, number: int) -> None:
    with pytest.raises(Interrupted, match="the state is saved; found step 6 of 20") as caught:
        flown(tmp_path / "state", progress=stopped_at(6, number))
    assert caught.value.exit_code == 6
    assert caught.value.remedy == "run the same command again"
    seen: list[int] = []
    assert same(flown(tmp_path / "state", progress=lambda done, total, loss: seen.append(done)), whole)
    assert seen[0] == 7


def test_the_second_signal_ends_at_once() -> None:
    with asked_to_stop() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signals_are_left_alone_where_somebody_else_handles_them() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with asked_to_stop() as stop:
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
    results: list[bool] = []
    other = threading.Thread(target=lambda: results.append(asked_to_stop().__enter__().is_set()))
    other.start()
    other.join()
    assert results == [False]


@pytest.mark.parametrize(
    "other",
    [
        replace(JOB, seed=6),
        replace(JOB, schedule=RECIPE.schedule.with_steps(19)),
        replace(JOB, samples=samples(21)),
        replace(JOB, recipe=handmade.recipe(aug=True, rate=0.2)),
        replace(JOB, about={"bundle": "another"}),
    ],
    ids=["seed", "steps", "samples", "schedule", "about"],
)
def test_another_jobs_state_is_never_resumed_and_not_lost(tmp_path: Path, whole: Trained, other: Job) -> None:
    folder = tmp_path / "state"
    with pytest.raises(Interrupted):
        flown(folder, progress=stopped_at(9))
    told: list[str] = []
    with pytest.raises(CutError):
        flown(folder, other, cut_at(1), tell=told.append)
    assert told
    assert all("holds the state of another training" in each and "this begins anew" in each for each in told)
    seen: list[int] = []
    assert same(flown(folder, progress=lambda done, total, loss: seen.append(done)), whole)
    assert seen[0] == 10


def test_fresh_gives_the_state_up(tmp_path: Path, whole: Trained) -> None:
    with pytest.raises(Interrupted):
        flown(tmp_path / "state", progress=stopped_at(9))
    seen: list[int] = []
    assert same(flown(tmp_path / "state", fresh=True, progress=lambda done, total, loss: seen.append(done)), whole)
    assert seen[0] == 1


def test_threads_are_kept_unless_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int | None] = []

    class Noted(Trainer):
        def __init__(self, *rest: object, threads: int | None = None, **options: object) -> None:
            used.append(threads)
            super().__init__(*rest, threads=threads, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(flight, "Trainer", Noted)
    told: list[str] = []
    for threads in (2, None, 1):
        with (
            pytest.raises(CutError),
            Mission(tmp_path / "s", Conditions(threads, every=0.0, tell=told.append)) as mission,
        ):
            mission.train(JOB, cut_at(3 + len(used) * 3))
    assert used == [2, 2, 1]
    assert "the state was made with 2 threads, this goes on with 1" in told[-1]


def full_disk(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr("fieldkit.bundle.atomic.os.fsync", refuse)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_told_once_and_training_goes_on(
    tmp_path: Path, whole: Trained, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    full_disk(monkeypatch, error)
    told: list[str] = []
    assert same(flown(tmp_path / "state", every=0.0, tell=told.append), whole)
    assert len(told) == 1
    assert "cannot be saved, so it goes on in memory alone" in told[0]


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path: Path, whole: Trained) -> None:
    (tmp_path / "file").write_bytes(b"")
    told: list[str] = []
    assert same(flown(tmp_path / "file" / "state", every=0.0, tell=told.append), whole)
    assert len(told) == 1


def test_a_result_that_cannot_be_written_leaves_the_state(
    tmp_path: Path, whole: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").write_bytes(b"older")
    with Mission(tmp_path / "state", Conditions(threads=1, every=0.0)) as mission:
        mission.train(JOB)
        full_disk(monkeypatch, errno.ENOSPC)
        with pytest.raises(ResourceError, match="then run the same command again, which goes on from the saved state"):
            mission.write(tmp_path / "model", b"new")
    assert (tmp_path / "model").read_bytes() == b"older"
    monkeypatch.undo()
    seen: list[int] = []
    assert same(flown(tmp_path / "state", progress=lambda done, total, loss: seen.append(done)), whole)
    assert len(seen) < 20


def test_a_result_without_room_or_state_finds_a_refuge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, errno.ENOSPC)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Mission(tmp_path / "state", Conditions(threads=1)) as mission:
        mission.train(JOB)
        with pytest.raises(ResourceError, match="it was written to ") as caught:
            mission.write(tmp_path / "model.onnx", b"result")
    (refuge,) = tmp_path.glob("model-*.onnx")
    assert refuge.read_bytes() == b"result"
    assert str(refuge) in str(caught.value)
    assert caught.value.where == str(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_diverged_training_leaves_no_state(tmp_path: Path) -> None:
    wild = replace(JOB, schedule=Schedule(20, 8, "constant", 1e38))
    with pytest.raises(Diverged):
        flown(tmp_path / "state", wild, every=0.0)
    assert not (tmp_path / "state").exists()


def test_without_a_folder_it_only_trains(whole: Trained) -> None:
    assert same(Mission(None, Conditions(threads=1)).train(JOB), whole)


def test_a_sealed_state_is_opened_with_its_sealer_alone(tmp_path: Path, whole: Trained) -> None:
    class Turned:
        def close(self, data: bytes) -> bytes:
            return data[::-1]

        def open(self, data: bytes) -> bytes:
            return data[::-1]

    with pytest.raises(CutError):
        flown(tmp_path / "state", progress=cut_at(9), every=0.0, sealer=Turned())
    kept = [path.read_bytes() for path in (tmp_path / "state").iterdir()]
    assert kept
    assert not any(each.startswith(checkpoint.MAGIC) for each in kept)
    told: list[str] = []
    with pytest.raises(CutError):
        flown(tmp_path / "state", progress=cut_at(1), tell=told.append)
    assert "not a training state; it is left out" in told[0]
    assert same(flown(tmp_path / "state", sealer=Turned()), whole)


def ticking(monkeypatch: pytest.MonkeyPatch, seconds: float) -> Callable[[], float]:
    """A clock for budgets on which each look takes ``seconds``."""
    now = [0.0]

    def monotonic() -> float:
        now[0] += seconds
        return now[0]

    monkeypatch.setattr(budget.time, "monotonic", monotonic)
    return monotonic


def test_a_budget_in_time_squeezes_the_schedule_and_is_decided_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decisions = iter([13, 7])
    monkeypatch.setattr(flight, "affordable", lambda *_: next(decisions))
    with pytest.raises(CutError):
        flown(tmp_path / "state", progress=cut_at(1), minutes=1.0)
    # No state of a step was saved yet; the decision was.
    trained = flown(tmp_path / "state", minutes=1.0)
    assert trained.steps == 13
    squeezed = fit(replace(RECIPE, schedule=RECIPE.schedule.with_steps(13)), JOB.samples, Options(seed=5, threads=1))
    assert same(trained, squeezed)


def test_as_many_steps_as_the_time_allows_and_no_more_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, start = Trainer(RECIPE, threads=1), begin(RECIPE, "full", 5)
    ticking(monkeypatch, 1.0)
    # A step takes a second, of which five are measured here beside two looks at the clock.
    assert affordable(trainer, JOB, start, 50.0, 1000) == int((50 - 7) / 1.05)
    assert affordable(trainer, JOB, start, 50.0, 20) == 20
    with pytest.raises(ResourceError, match=r"too little time to train; found 4\.0 s") as caught:
        affordable(trainer, JOB, start, 4.0, 20)
    assert caught.value.exit_code == 5


def test_measuring_a_step_changes_nothing(tmp_path: Path, whole: Trained) -> None:
    assert same(flown(tmp_path / "state", minutes=1000.0), whole)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_no_time_is_a_usage_error(minutes: float) -> None:
    with pytest.raises(UsageError, match="minutes"):
        Mission(None, Conditions(minutes=minutes))


def test_only_a_memory_limit_that_is_needed_slows_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {False: 90 << 20, True: 40 << 20}
    monkeypatch.setattr(budget, "rehearse", lambda scene: type("R", (), {"memory": needs[scene.frugal]})())
    monkeypatch.setattr(budget, "held_memory", lambda: 50 << 20)
    start = begin(RECIPE, "full", 5)
    assert budget.must_be_frugal(JOB, 1, start, 150 << 20) is False
    assert budget.must_be_frugal(JOB, 1, start, 100 << 20) is True
    with pytest.raises(ResourceError, match="found a limit of 84 MB; expected at least 99 MB"):
        budget.must_be_frugal(JOB, 1, start, 80 << 20)
