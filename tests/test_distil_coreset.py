"""Coresets against slow loops over all candidates, and what a chosen set is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_distil import problem

from fieldkit.bundle.samples import Samples
from fieldkit.hq.distil import start
from fieldkit.hq.distil.herding import herded
from fieldkit.hq.distil.kcenter import farthest_first
from fieldkit.hq.distil.workers import Workers

pytestmark = pytest.mark.hq

CHOSEN = ("herding", "kcenter")
few = hypothesis_settings(max_examples=6, deadline=None, derandomize=True)


def drawn(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(1.0, 1.0, (count, 5))


@given(seed=st.integers(0, 1000), count=st.integers(1, 20))
@few
def test_herding_equals_icarls_algorithm(seed: int, count: int) -> None:
    features = drawn(seed, 20)
    lengths = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean, expected = lengths.mean(axis=0), []
    for number in range(1, count + 1):
        away = {
            place: np.linalg.norm(mean - (lengths[place] + lengths[expected].sum(axis=0)) / number)
            for place in set(range(20)) - set(expected)
        }
        expected.append(min(away, key=away.__getitem__))
    assert herded(torch.from_numpy(features), count).tolist() == expected


@given(seed=st.integers(0, 1000), count=st.integers(1, 20))
@few
def test_kcenter_equals_a_loop_over_all_pairs(seed: int, count: int) -> None:
    features = drawn(seed, 20)
    expected = [int(np.linalg.norm(features - features.mean(axis=0), axis=1).argmin())]
    while len(expected) < count:
        away = {
            place: min(np.linalg.norm(features[place] - features[each]) for each in expected)
            for place in set(range(20)) - set(expected)
        }
        expected.append(max(away, key=away.__getitem__))
    assert farthest_first(torch.from_numpy(features), count).tolist() == expected


@pytest.mark.parametrize("choose", [herded, farthest_first])
def test_equal_features_are_taken_once_each(choose: Any) -> None:
    assert sorted(choose(torch.ones(4, 3), 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["random", *CHOSEN])
def test_a_chosen_set_is_real_images_of_each_class(name: str) -> None:
    posed = problem(ipc=3)
    snapshot = start(name, posed, {} if name == "random" else {"epochs": 2}).snapshot()
    for image, target in zip(snapshot.images, posed.targets, strict=True):
        same = (posed.real.images == image).all(axis=(1, 2, 3))
        assert posed.real.targets[same].tolist() == [target]


@pytest.mark.parametrize("name", CHOSEN)
def test_fewer_are_the_first_of_more(name: str) -> None:
    few, more = (start(name, problem(ipc=ipc), {"epochs": 2}) for ipc in (2, 5))
    assert (few.positions.reshape(3, 2) == more.positions.reshape(3, 5)[:, :2]).all()


@pytest.mark.parametrize("name", CHOSEN)
def test_a_small_class_repeats_its_images(name: str) -> None:
    whole = problem(ipc=4)
    kept = np.flatnonzero((whole.real.targets != 1) | (np.arange(60) < 6))
    small = replace(whole, real=Samples(whole.real.images[kept], whole.real.targets[kept]))
    chosen = start(name, small, {"epochs": 1}).positions.reshape(3, 4)
    assert len(set(chosen[1])) == 2
    assert len(set(chosen[0])) == len(set(chosen[2])) == 4


@pytest.mark.parametrize("name", CHOSEN)
def test_two_workers_choose_what_one_chooses(name: str) -> None:
    def work(workers: Workers) -> np.ndarray:
        return start(name, replace(problem(), workers=workers), {"epochs": 2}).positions

    alone = work(Workers())
    for positions in together(2, work):
        np.testing.assert_array_equal(positions, alone)


def test_the_network_inside_has_learnt_the_classes() -> None:
    """Noise alone tells the images of a class apart, so what is chosen looks like the class on the mean."""
    posed = problem(ipc=4)
    snapshot = start("herding", posed, {"epochs": 4}).snapshot()
    means = np.stack([posed.real.images[group].mean(axis=0) for group in posed.groups])
    chosen = snapshot.images.reshape(3, 4, 1, 8, 8).mean(axis=1)
    away = np.square(chosen[:, None] - means[None]).mean(axis=(2, 3, 4))
    assert away.argmin(axis=1).tolist() == [0, 1, 2]
