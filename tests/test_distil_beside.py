"""Sets that are made beside earlier ones: the loss against plain lines, workers, resuming, and what reaches whom."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from test_distil import problem

torch = pytest.importorskip("torch")

from crew import together

from fieldkit.bundle.recipe import Augmentation
from fieldkit.errors import UsageError
from fieldkit.hq.distil import beside, start
from fieldkit.hq.distil.problem import Earlier, Problem, Snapshot
from fieldkit.hq.distil.workers import Workers
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq

SETTINGS = {"real": 12, "recalled": 6, "matched": 4, "pool": 2}


def posed(augmentation: Augmentation = Augmentation()) -> Problem:
    """The problem of three classes, beside two earlier ones with two images each."""
    rng = np.random.default_rng(5)
    pixels = torch.from_numpy(rng.normal(size=(4, 1, 8, 8)).astype(np.float32))
    labels = torch.from_numpy(np.float32([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.0, 1.0]]))
    module = build_model("convnet", {"depth": 2, "width": 4}, (1, 8, 8), 5)
    return replace(problem(augmentation=augmentation), earlier=Earlier(pixels, labels, module))


def test_loss_equals_plain_lines() -> None:
    """A regression by least squares over all classes, and mean features of real and distilled images of a class."""
    given = posed()
    made = beside.Beside(given, beside.Settings(**SETTINGS, ridge=0.1, matching=0.0))
    weights = made.pool.trainings[1].weights
    rng = given.rng(1)
    positions, chosen = rng.integers(60, size=12), rng.integers(4, size=6)

    def features(pixels: torch.Tensor) -> np.ndarray:
        return made.union.features(weights, pixels).detach().double().numpy()

    own = made.distilled.labels().detach().numpy()
    labels = np.zeros((10, 5))
    labels[:6, 2:], labels[6:, :2] = own, given.earlier.labels.numpy()
    fitted = features(torch.cat([made.distilled.seen().detach(), given.earlier.pixels]))
    judging = features(torch.cat([given.pixels(positions), given.earlier.pixels[chosen]]))
    classes = np.concatenate([given.real.targets[positions] + 2, labels[6:][chosen].argmax(axis=1)])
    penalty = 0.1 * np.trace(fitted @ fitted.T) / 10
    solved = np.linalg.solve(fitted.T @ fitted + penalty * np.eye(fitted.shape[1]), fitted.T @ (labels - 0.2))
    errors = judging @ solved - (np.eye(5)[classes] - 0.2)
    assert made.step(0.0) == pytest.approx(0.5 * np.square(errors).sum(axis=1).mean(), rel=1e-3)


def test_matching_keeps_the_mean_features_of_each_class() -> None:
    given = posed()
    with_it, without = (
        beside.Beside(given, beside.Settings(**SETTINGS, matching=weight)).step(0.0) for weight in (2.0, 0.0)
    )
    half = beside.Beside(given, beside.Settings(**SETTINGS, matching=1.0)).step(0.0)
    assert with_it > half > without
    assert with_it - without == pytest.approx(2 * (half - without), rel=1e-3)


def test_networks_answer_for_all_classes_and_the_set_has_its_own() -> None:
    given = posed()
    made = start("beside", given, SETTINGS)
    before = given.earlier.pixels.clone()
    made.step(0.0)
    assert {each.weights["head.weight"].shape[0] for each in made.pool.trainings} == {5}
    assert made.snapshot().labels.shape == (6, 3)
    np.testing.assert_array_equal(made.snapshot().labels.argmax(axis=1), given.targets)
    torch.testing.assert_close(given.earlier.pixels, before, rtol=0, atol=0)


def test_earlier_sets_change_what_is_made() -> None:
    sets = []
    for given in (posed(), replace(posed(), earlier=None)):
        made = start("beside", given, SETTINGS)
        made.step(0.0)
        sets.append(made.snapshot().images)
    assert (sets[0] != sets[1]).any()


def test_iterations_lower_the_loss() -> None:
    made = beside.Beside(posed(), beside.Settings(real=30, recalled=8, matched=8, pool=3, sharpness=1.0, rate=0.05))
    losses = [made.step(0.0) for _ in range(40)]
    assert np.mean(losses[-9:]) < 0.85 * np.mean(losses[:9])


def test_a_restored_state_goes_on_to_the_same_set() -> None:
    whole, resumed = (start("beside", posed(), SETTINGS) for _ in range(2))
    whole.step(0.0)
    # A stored state is a copy: see the contract suite, which writes it to a file.
    resumed.restore(deepcopy(whole.state()))
    for each in (whole, resumed):
        each.step(0.5)
    np.testing.assert_array_equal(whole.snapshot().images, resumed.snapshot().images)


def test_workers_share_the_work() -> None:
    def work(workers: Workers) -> tuple[list[float], Snapshot]:
        made = start("beside", replace(posed(Augmentation(shift=0.1)), workers=workers), SETTINGS)
        return [made.step(done) for done in (0.0, 0.4)], made.snapshot()

    losses, alone = work(Workers())
    for other, snapshot in together(4, work):
        np.testing.assert_allclose(other, losses, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(snapshot.images, alone.images, atol=0.05)


def test_no_regularisation_is_refused() -> None:
    with pytest.raises(UsageError, match="beside ridge"):
        start("beside", posed(), {"ridge": 0.0})
