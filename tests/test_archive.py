"""Experts on disk: trained once, from where they stopped, by several processes; damage is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together
from test_distil import problem

from fieldkit.errors import Diverged, UsageError
from fieldkit.hq.distil.archive import Archive
from fieldkit.hq.distil.experts import Expert, Lessons, train_expert
from fieldkit.hq.distil.problem import Problem
from fieldkit.hq.distil.workers import Workers

pytestmark = pytest.mark.hq

LESSONS = Lessons(epochs=3, batch=16)


@pytest.fixture
def posed(tmp_path: Path) -> Problem:
    return replace(problem(), cache=tmp_path / "cache")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def test_experts_are_those_that_train_expert_makes(posed: Problem) -> None:
    experts = Archive(posed, LESSONS, 2, trajectories=True)
    experts.provide(2)
    for seed in (0, 1):
        kept: dict[int, dict[str, torch.Tensor]] = {}
        last = train_expert(posed, LESSONS, seed, lambda epoch, weights, kept=kept: kept.update({epoch: weights}))
        for name, value in experts.weights(seed).items():
            # Each expert has a process of one thread, this test maybe more: sums differ in their last bits.
            torch.testing.assert_close(value, last[name], atol=1e-5, rtol=1e-5)
        for epoch, weights in kept.items():
            for name, value in experts.snapshot(seed, epoch).items():
                torch.testing.assert_close(value, weights[name].half().float(), atol=1e-5, rtol=1e-3)


def test_running_statistics_are_kept_with_the_last_weights(posed: Problem) -> None:
    from fieldkit.hq.models import build_model

    module = build_model("convnet", {"depth": 2, "width": 4, "norm": "batch"}, (1, 8, 8), 3)
    experts = Archive(replace(posed, module=module), LESSONS, 1, trajectories=True)
    experts.provide(1)
    assert any(name.endswith("running_var") for name in experts.weights(0))
    assert experts.snapshot(0, 3).keys() == dict(module.named_parameters()).keys()


def test_what_is_on_disk_is_not_trained_again(posed: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    Archive(posed, LESSONS, 2).provide(2)

    def never(self: Expert) -> None:
        raise AssertionError

    monkeypatch.setattr(Expert, "learn", never)
    said: list[tuple[int, int]] = []
    Archive(posed, LESSONS, 2).provide(2, lambda ready, count: said.append((ready, count)))
    assert said[-1] == (2, 2)


def test_a_stopped_expert_goes_on_to_the_same_weights(posed: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Expert.learn

    def stopping(self: Expert) -> None:
        if self.epoch == 2:
            raise KeyboardInterrupt
        learn(self)

    with monkeypatch.context() as patched:
        patched.setattr(Expert, "learn", stopping)
        with pytest.raises(KeyboardInterrupt):
            Archive(posed, LESSONS, 1, trajectories=True).provide(1)
    stopped = Archive(posed, LESSONS, 1, trajectories=True)
    assert sorted(path.name for path in (stopped.folder / "000").iterdir()) == [
        "epoch-000.npy", "epoch-001.npy", "epoch-002.npy", "last.pt"
    ]  # fmt: skip
    learnt: list[int] = []
    monkeypatch.setattr(Expert, "learn", lambda self: (learnt.append(self.epoch), learn(self)))
    stopped.provide(1)
    assert learnt == [2]
    whole = train_expert(posed, LESSONS, 0)
    for name, value in stopped.weights(0).items():
        torch.testing.assert_close(value, whole[name], atol=0, rtol=0)


def test_processes_make_what_one_makes(posed: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    several = Archive(posed, LESSONS, 2, trajectories=True)
    several.provide(1)
    assert len(list(several.folder.glob("0*"))) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = Archive(replace(posed, cache=tmp_path / "other"), LESSONS, 2, trajectories=True)
    alone.provide(1)
    assert len(list(alone.folder.glob("0*"))) == 1
    alone.provide(2)
    for seed, epoch in ((0, 3), (1, 3)):
        for name, value in several.snapshot(seed, epoch).items():
            torch.testing.assert_close(value, alone.snapshot(seed, epoch)[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("shared", "expected"), [(True, {0: [0, 2], 1: [1]}), (False, {0: [0, 1, 2], 1: [0, 1, 2]})])
def test_workers_share_the_training_where_they_share_a_folder(
    posed: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool, expected: dict[int, list[int]]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    trained: dict[int, list[int]] = {0: [], 1: []}

    def work(workers: Workers) -> Path:
        folder = tmp_path / ("shared" if shared else str(workers.rank))
        # A module runs in one worker at a time: each has its own.
        own = replace(posed, module=problem().module, cache=folder, workers=workers)
        experts = Archive(own, Lessons(epochs=1, batch=30), 3)
        train = experts._train
        monkeypatch.setattr(experts, "_train", lambda seeds: (trained[workers.rank].extend(seeds), train(seeds)))
        experts.provide(3)
        return experts.folder

    folders = together(2, work)
    assert {rank: sorted(seeds) for rank, seeds in trained.items()} == expected
    for folder in folders:
        assert sorted(path.name for path in folder.glob("0*")) == ["000", "001", "002"]


def test_without_a_cache_nothing_stays() -> None:
    experts = Archive(problem(), LESSONS, 1)
    experts.provide(1)
    folder = experts.folder
    assert (folder / "000" / "last.pt").is_file()
    del experts
    assert not folder.exists()


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"schedule": None}, {"real": 0}, {"lessons": Lessons(epochs=3, batch=15)}]
)
def test_the_folder_is_named_for_what_decides_its_experts(posed: Problem, change: dict[str, object]) -> None:
    first = Archive(posed, LESSONS, 1)
    lessons = change.pop("lessons", LESSONS)
    if "real" in change:
        change = {"real": posed.real.take(np.arange(1, 60))}
    second = Archive(replace(posed, **change), lessons, 1)
    # The schedule of the device's training is nothing to an expert.
    assert (first.folder == second.folder) == ("schedule" in change)
    about = json.loads((second.folder / "about.json").read_text())
    assert about["lessons"]["batch"] == lessons.batch


@pytest.mark.parametrize("name", ["last.pt", "epoch-001.npy"])
def test_damage_is_told_with_a_remedy(posed: Problem, name: str) -> None:
    experts = Archive(posed, LESSONS, 1, trajectories=True)
    experts.provide(1)
    path = experts.folder / "000" / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"damaged.*\n.*remove the folder"):
        experts.weights(0) if name == "last.pt" else experts.snapshot(0, 1)


@pytest.mark.parametrize(
    "foreign",
    [[], {}, {"weights": 1, "epoch": 1, "optimiser": {}}, {"weights": {"head.bias": torch.zeros(7)}, "epoch": 3}],
)
def test_a_foreign_file_is_told_like_damage(posed: Problem, foreign: object) -> None:
    experts = Archive(posed, LESSONS, 1)
    (experts.folder / "000").mkdir()
    torch.save(foreign, experts.folder / "000" / "last.pt")
    with pytest.raises(UsageError, match=r"damaged.*\n.*remove the folder"):
        experts.provide(1)


def test_an_expert_that_diverges_says_so(posed: Problem) -> None:
    with pytest.raises(Diverged, match="smaller learning rate for the experts"):
        Archive(posed, Lessons(epochs=2, rate=1e38, falling=False), 1).provide(1)


def test_weights_beyond_float16_are_divergence(posed: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    def learn(expert: Expert) -> None:
        expert.epoch += 1
        expert._trained[0].data.fill_(1e6)

    monkeypatch.setattr(Expert, "learn", learn)
    with pytest.raises(Diverged, match=r"too large to be kept.*found 1e\+06"):
        Archive(posed, LESSONS, 1, trajectories=True).provide(1)


def test_an_epoch_of_some_images_sees_others_each_time(posed: Problem) -> None:
    lessons = Lessons(epochs=4, batch=8, most=16)
    assert lessons.schedule(60).steps == 8
    seen: list[int] = []
    expert = Expert(posed, lessons, 0)
    expert._loss, loss = lambda positions, rng: (seen.extend(positions), loss(positions, rng))[1], expert._loss
    for _ in range(4):
        expert.learn()
    assert len(seen) == 64
    assert len(set(seen[:16])) == 16
    assert len(set(seen)) > 30
