"""Distribution matching against a loop over classes; portions; the queue of IDM and its regularisation; workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together
from test_distil import problem

from fieldkit.bundle.recipe import Augmentation
from fieldkit.errors import UsageError
from fieldkit.hq.augmentation import augment
from fieldkit.hq.distil import siamese, start
from fieldkit.hq.distil.distribution import DistributionMatching, Settings, matching_loss, misplaced
from fieldkit.hq.distil.problem import Snapshot
from fieldkit.hq.distil.queue import Queue
from fieldkit.hq.distil.workers import Workers
from fieldkit.hq.models import build_model

pytestmark = pytest.mark.hq


@pytest.mark.parametrize("augmentation", [siamese.SIAMESE, Augmentation()])
@pytest.mark.parametrize("portion", [1, 1 << 20])
def test_loss_and_gradient_equal_a_loop_over_classes(
    augmentation: Augmentation, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' structure: class by class, real and distilled each through the network on their own."""
    monkeypatch.setattr(siamese, "PORTION", portion)
    posed, rng = problem(), np.random.default_rng(3)
    weights = posed.fresh_model(5)
    positions = posed.pick(4, rng)
    images = posed.pixels(posed.pick(2, rng)).requires_grad_(True)
    uniforms = rng.random((3, augmentation.width), dtype=np.float32)
    loss = matching_loss(posed, augmentation, weights, (positions, images), uniforms)
    (gradient,) = torch.autograd.grad(loss, images)
    expected = torch.tensor(0.0)
    for index in range(3):
        means = []
        for pixels, count in ((posed.pixels(positions), 4), (images, 2)):
            part = pixels[index * count : (index + 1) * count]
            row = torch.from_numpy(uniforms[index : index + 1]).repeat(count, 1)
            means.append(posed.features(weights, augment(part, row, augmentation)).mean(dim=0))
        expected = expected + ((means[0].detach() - means[1]) ** 2).sum()
    (expected_gradient,) = torch.autograd.grad(expected, images)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_batch_is_never_cut_where_features_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build_model("convnet", {"depth": 1, "width": 4, "norm": "batch"}, (1, 8, 8), 3)
    posed = replace(problem(), module=module)
    weights, positions = posed.fresh_model(0), np.arange(6)
    expected = posed.features(weights, posed.pixels(positions)).reshape(3, 2, -1)
    monkeypatch.setattr(siamese, "PORTION", 1)
    uniforms = np.zeros((3, 0), np.float32)
    torch.testing.assert_close(siamese.real_features(posed, weights, positions, uniforms, Augmentation()), expected)
    torch.testing.assert_close(siamese.features(posed, weights, posed.pixels(positions), 3), expected)


@pytest.mark.parametrize("settings", [{}, {"queue": 3, "lesson": 1}])
def test_iterations_bring_the_features_closer(settings: dict[str, float]) -> None:
    posed = replace(problem(), start="noise")
    made = DistributionMatching(posed, Settings(per_class=12, rate=0.1, **settings))
    losses = [made.step(0.0) for _ in range(24)]
    assert np.mean(losses[-6:]) < 0.7 * np.mean(losses[:6])


class TestQueue:
    def test_the_oldest_network_makes_room(self) -> None:
        queue = Queue(problem(), 4, 1)
        for _ in range(3):
            queue.push()
        assert [each.seed for each in queue.experts] == [2, 3, 4, 5]

    def test_one_network_learns_in_an_iteration(self) -> None:
        made = DistributionMatching(problem(), Settings(per_class=4, queue=4, interval=2, lesson=1))
        ages = []
        for _ in range(4):
            made.step(0.0)
            ages.append([each.epoch for each in made.queue.experts])
        assert [len(each) for each in ages] == [3, 4, 4, 4]
        assert sum(ages[0]) == 1

    def test_a_restored_queue_learns_on_the_same(self) -> None:
        queue, other = Queue(problem(), 3, 1), Queue(problem(), 3, 1)
        queue.push()
        queue.learn(np.random.default_rng(0))
        other.restore(queue.state())
        for each in (queue, other):
            each.learn(np.random.default_rng(1))
        for mine, theirs in zip(queue.experts, other.experts, strict=True):
            assert (mine.seed, mine.epoch) == (theirs.seed, theirs.epoch)
            for name, value in mine.weights().items():
                torch.testing.assert_close(theirs.weights()[name], value, rtol=0, atol=0)

    def test_a_network_counts_as_much_as_it_is_right(self) -> None:
        posed = problem()
        weights, pixels = posed.fresh_model(0), posed.pixels(np.arange(4))
        answers = posed.answers(weights, posed.pixels(np.arange(60))).argmax(dim=1).numpy()
        right = np.flatnonzero(answers == posed.real.targets)
        wrong = np.flatnonzero(answers != posed.real.targets)
        targets = torch.tensor([0, 0, 2, 2])
        plain = torch.nn.functional.cross_entropy(posed.logits(weights, pixels), targets)
        for witnesses, share in ((right, 1.0), (wrong, 0.0), (np.concatenate([right[:2], wrong[:2]]), 0.5)):
            found = misplaced(posed, weights, pixels, ([0, 2], witnesses))
            torch.testing.assert_close(found, plain * 2 * share)

    def test_regularisation_needs_trained_networks(self) -> None:
        with pytest.raises(UsageError, match="regularisation"):
            start("distribution", problem(), {"regularisation": 0.5})


@pytest.mark.parametrize("settings", [Settings(per_class=4), Settings(4, queue=3, lesson=1, regularisation=0.5)])
def test_workers_make_the_set_that_one_process_makes(settings: Settings) -> None:
    def work(workers: Workers) -> Snapshot:
        made = DistributionMatching(replace(problem(), workers=workers), settings)
        for done in (0.0, 0.5):
            made.step(done)
        return made.snapshot()

    alone = work(Workers())
    # Four workers for three classes: one has none.
    for each in together(4, work):
        np.testing.assert_allclose(each.images, alone.images, atol=0.05)
