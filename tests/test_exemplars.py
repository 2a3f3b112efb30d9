"""Which samples a device keeps: herding beside a literal algorithm 4 of iCaRL, reservoirs beside chance."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.field.learning.exemplars import herding, ranks


def distances(features: np.ndarray, taken: list[int]) -> np.ndarray:
    """What algorithm 4 of Rebuffi et al. 2017 minimises, for every sample, as it is printed; infinite for one taken."""
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    number, found = len(taken) + 1, np.full(len(features), np.inf)
    for candidate in set(range(len(features))) - set(taken):
        found[candidate] = np.linalg.norm(
            directions.mean(0) - (directions[candidate] + directions[taken].sum(0)) / number
        )
    return found


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 6))
def test_herding_is_that_of_icarl(seed: int, count: int, width: int) -> None:
    features = np.random.default_rng(seed).normal(0.3, 1.0, (count, width))
    order = herding(features, count).tolist()
    for number, place in enumerate(order):
        found = distances(features, order[:number])
        assert found[place] <= found.min() + 1e-9
    assert sorted(order) == list(range(count))


def test_any_first_part_of_the_order_is_the_choice_of_its_size() -> None:
    features = np.random.default_rng(0).random((30, 5))
    order = herding(features, 30)
    for count in (1, 7, 29):
        assert herding(features, count).tolist() == order[:count].tolist()
    assert len(herding(features, 100)) == 30


def test_herding_beats_chance_at_the_mean_of_a_class() -> None:
    features = np.random.default_rng(1).normal(1.0, 1.0, (200, 8))
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)

    def distance(positions: np.ndarray) -> float:
        return float(np.linalg.norm(directions[positions].mean(axis=0) - directions.mean(axis=0)))

    chance = [distance(np.random.default_rng(seed).permutation(200)[:10]) for seed in range(20)]
    assert distance(herding(features, 10)) < min(chance)


def test_a_feature_of_zeros_has_no_direction_and_does_no_harm() -> None:
    features = np.array([[0.0, 0.0], [1.0, 0.0], [0.9, 0.1]])
    assert sorted(herding(features, 3)) == [0, 1, 2]
    assert herding(np.zeros((2, 3)), 2).tolist() == [0, 1]


def kept(seed: int, counts: tuple[int, ...], most: int) -> set[int]:
    """Which of the samples of a stream that comes in several lots a reservoir of ``most`` holds in the end."""
    held: list[tuple[float, int]] = []
    start = 0
    for stream, count in enumerate(counts):
        order, keys = ranks("reservoir", np.zeros((count, 1)), seed=seed, stream=stream, most=most)
        held = sorted([*held, *zip(keys.tolist(), (start + order).tolist(), strict=True)])[:most]
        start += count
    return {place for _, place in held}


def test_a_reservoir_holds_each_sample_of_a_stream_with_the_same_chance() -> None:
    counts, most, trials = (5, 1, 14), 4, 2000
    found = np.zeros(20)
    for seed in range(trials):
        places = kept(seed, counts, most)
        assert len(places) == most
        found[list(places)] += 1
    expected = trials * most / 20
    deviation = np.sqrt(expected * (1 - most / 20))
    assert np.abs(found - expected).max() < 4 * deviation
    # The sum of squares of 20 nearly independent deviations; 45 is far beyond its 99.8th percentile.
    assert (((found - expected) / deviation) ** 2).sum() < 45


def test_ranks_say_who_goes_first_as_a_share_of_what_came() -> None:
    features = np.random.default_rng(2).random((8, 3))
    order, own = ranks("herding", features, seed=0, stream=0, most=4)
    assert order.tolist() == herding(features, 4).tolist()
    assert own.tolist() == [0.0, 0.125, 0.25, 0.375]
    positions, keys = ranks("reservoir", features, seed=0, stream=0, most=8)
    assert (np.diff(keys) > 0).all()
    assert 0 <= keys[0] < keys[-1] < 1
    assert sorted(positions) == list(range(8))
