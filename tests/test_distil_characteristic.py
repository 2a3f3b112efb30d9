"""Characteristic functions against complex arithmetic at each frequency; the min-max game; experts; workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_distil import problem

from fieldkit.errors import UsageError
from fieldkit.hq.distil import start
from fieldkit.hq.distil.characteristic import CharacteristicMatching, Settings, discrepancy, sampling_network
from fieldkit.hq.distil.problem import Snapshot
from fieldkit.hq.distil.workers import Workers

pytestmark = pytest.mark.hq

TINY = Settings(per_class=4, frequencies=16, experts=2, epochs=1)


@given(seed=st.integers(0, 1000), amplitude=st.floats(0, 1), real=st.integers(1, 5), distilled=st.integers(1, 5))
@hypothesis_settings(max_examples=6, deadline=None, derandomize=True)
def test_discrepancy_equals_complex_arithmetic(seed: int, amplitude: float, real: int, distilled: int) -> None:
    rng = np.random.default_rng(seed)
    theirs, ours = rng.normal(size=(2, real, 5)), rng.normal(size=(2, distilled, 5))
    frequencies = rng.normal(size=(7, 5)) * 3
    found = discrepancy(*(torch.from_numpy(each) for each in (theirs, ours, frequencies)), amplitude)
    for index in range(2):
        terms = []
        for frequency in frequencies:
            values = []
            for side in (theirs[index], ours[index]):
                unit = side / np.linalg.norm(side, axis=1, keepdims=True)
                values.append(np.exp(1j * unit @ frequency).mean())
            sizes = (abs(values[0]) - abs(values[1])) ** 2
            # Equal parts of both give half the squared distance in the complex plane.
            phases = abs(values[0] - values[1]) ** 2 - sizes
            terms.append(np.sqrt(amplitude * sizes + (1 - amplitude) * max(phases, 0.0)))
        assert float(found[index]) == pytest.approx(np.mean(terms), abs=1e-5)


def test_the_same_features_agree_at_any_frequency() -> None:
    features = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    frequencies = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    assert (discrepancy(features, features, frequencies, 0.5) < 1e-3).all()
    assert (discrepancy(features, -features, frequencies, 0.5) > 0.05).all()


def test_a_gradient_is_a_number_where_both_agree() -> None:
    real = torch.ones(1, 2, 3)
    distilled = real.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discrepancy(real, distilled, torch.eye(3), 0.5).sum(), distilled)
    assert torch.isfinite(gradient).all()


def test_the_sampling_network_finds_what_differs() -> None:
    made = CharacteristicMatching(problem(), replace(TINY, sampling_rate=0.01))
    rng = torch.Generator().manual_seed(0)
    count = made.sampler[-2].num_features
    real, distilled = torch.randn(3, 8, count, generator=rng), torch.randn(3, 8, count, generator=rng)
    noise = torch.randn(16, made.inputs, generator=rng)
    sides = [real, distilled]
    losses = [float(discrepancy(real, distilled, made._sharpened(sides, noise, 0.0), 0.5).sum()) for _ in range(25)]
    assert losses[-1] > 1.1 * losses[0]


def test_frequencies_lie_between_minus_one_and_one() -> None:
    frequencies = sampling_network(4, 6, 0)(torch.randn(10, 4))
    assert frequencies.shape == (10, 6)
    assert frequencies.abs().max() <= 1


@pytest.mark.parametrize("sampling_rate", [0.0, 1e-3])
def test_iterations_bring_distributions_closer(sampling_rate: float) -> None:
    settings = Settings(
        per_class=20, frequencies=32, experts=2, epochs=1, calibration=0.0, rate=0.1, sampling_rate=sampling_rate
    )
    made = CharacteristicMatching(replace(problem(ipc=4), start="noise"), settings)
    losses = [made.step(0.0) for _ in range(24)]
    assert np.mean(losses[-6:]) < 0.85 * np.mean(losses[:6])


def test_calibration_makes_images_that_a_trained_network_knows() -> None:
    posed, settings = problem(), replace(TINY, epochs=8, rate=0.05, calibration=10.0)
    made = CharacteristicMatching(posed, settings)
    made.step(0.0)
    trained, targets = made.archive.weights(0), torch.from_numpy(posed.targets)

    def loss() -> float:
        return float(torch.nn.functional.cross_entropy(posed.answers(trained, made.distilled.seen()), targets))

    before = loss()
    for _ in range(15):
        made.step(0.0)
    assert loss() < before


def test_networks_lie_between_first_and_trained_weights() -> None:
    made = CharacteristicMatching(problem(), TINY)
    made.archive.provide(2)
    between, trained = made._networks(np.random.default_rng(3))
    rng = np.random.default_rng(3)
    expert, share = int(rng.integers(2)), rng.random()
    for name, first in made.archive.snapshot(expert, 0).items():
        torch.testing.assert_close(between[name], first * (1 - share) + trained[name] * share)


def test_workers_make_the_set_that_one_process_makes() -> None:
    def work(workers: Workers) -> tuple[Snapshot, Snapshot]:
        made = CharacteristicMatching(replace(problem(), workers=workers), TINY)
        first = made.snapshot()
        for done in (0.0, 0.5):
            made.step(done)
        return first, made.snapshot()

    first, alone = work(Workers())
    way = np.linalg.norm(alone.images - first.images)
    # Four workers for three classes: one has none.  Adam's first steps are little but signs, so a gradient that is all
    # rounding moves its pixel by a whole step; a worker whose share is missing would change most of them.
    for _, each in together(4, work):
        assert np.linalg.norm(each.images - alone.images) < 0.15 * way


@pytest.mark.parametrize(("name", "value"), [("amplitude", 1.5), ("frequencies", 1), ("experts", 0)])
def test_settings_out_of_range(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        start("characteristic", problem(), {name: value})
