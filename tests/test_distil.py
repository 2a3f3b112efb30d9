"""Every method on a small problem, against slow oracles; the driver's budget, selection, interruption and resuming."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from crew import together

from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Augmentation, Initial, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.errors import Diverged, ProgramError, ResourceError, UsageError
from fieldkit.field.engine.augmentation import draw
from fieldkit.field.engine.training import minibatch
from fieldkit.hq.augmentation import augment
from fieldkit.hq.compiler.optimisers import AdamW, Sgd
from fieldkit.hq.distil import METHODS, checkpoint, images, method, ridge, start, unrolled
from fieldkit.hq.distil.checkpoint import Checkpoint, Run
from fieldkit.hq.distil.descent import Training, descend
from fieldkit.hq.distil.driver import Budget, Status, drive
from fieldkit.hq.distil.pool import Pool
from fieldkit.hq.distil.problem import Problem, Snapshot, annealed
from fieldkit.hq.distil.workers import Workers
from fieldkit.hq.models import build_model
from fieldkit.hq.models.normalisation import Normalise

pytestmark = pytest.mark.hq

NO_AUGMENTATION = Augmentation()


def problem(
    *,
    ipc: int = 2,
    steps: int = 4,
    batch: int = 6,
    seed: int | None = None,
    augmentation: Augmentation = NO_AUGMENTATION,
    formation: int = 1,
) -> Problem:
    """Three classes of 8x8 images that differ in where they are bright."""
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    images = rng.integers(0, 60, (60, 1, 8, 8))
    for index, target in enumerate(targets):
        images[index, :, :, 2 * target : 2 * target + 3] += 150
    images = images.astype(np.uint8)
    return Problem(
        real=Samples(images, targets.astype(np.int64)),
        module=build_model("convnet", {"depth": 2, "width": 4}, (1, 8, 8), 3),
        normalise=Normalise(Radiometry.measure(images)),
        ipc=ipc,
        class_count=3,
        schedule=Schedule(steps=steps, batch=batch, rate=0.05),
        initial=Initial(seed=seed),
        augmentation=augmentation,
        formation=formation,
    )


SETTINGS = {
    "beside": {"real": 12, "recalled": 6, "matched": 4, "pool": 2},
    "bptt": {"real": 12, "window": 2, "horizon": 4},
    "characteristic": {"per_class": 4, "frequencies": 8, "experts": 2, "epochs": 1},
    "distribution": {"per_class": 4},
    "generative": {"width": 4, "channels": 2, "batch": 8, "per_class": 4, "steps": 4},
    "gradient": {"per_class": 4, "inner": 1},
    "herding": {"epochs": 2},
    "inversion": {"batch": 4, "epochs": 8, "learning_rate": 0.1},
    "kcenter": {"epochs": 2},
    "patches": {"candidates": 20, "crops": 2, "epochs": 8, "learning_rate": 0.1},
    "random": {},
    "ridge": {"real": 12, "pool": 2},
    "trajectory": {
        "experts": 2,
        "lesson": 24,
        "steps": 3,
        "batch": 4,
        "early": 1,
        "late": 2,
        "span": 1,
        "label_rate": 1e-4,
    },
    "unrolled": {"real": 12},
}


def test_every_method_is_in_the_contract_suite() -> None:
    assert SETTINGS.keys() == METHODS.keys()


@pytest.mark.parametrize("name", sorted(METHODS))
class TestContract:
    def test_a_few_iterations_give_a_sound_set(self, name: str) -> None:
        posed = problem()
        made = start(name, posed, SETTINGS[name])
        losses = [made.step(done) for done in (0.0, 0.5)]
        snapshot = made.snapshot()
        assert np.isfinite(losses).all()
        assert snapshot.images.shape == (6, 1, 8, 8)
        assert snapshot.images.dtype == np.float32
        assert snapshot.labels.dtype == np.float32
        np.testing.assert_allclose(snapshot.labels.sum(axis=1), 1.0, atol=1e-6)
        np.testing.assert_array_equal(snapshot.labels.argmax(axis=1), posed.targets)

    def test_the_same_seed_gives_the_same_set(self, name: str) -> None:
        sets = []
        for _ in range(2):
            made = start(name, problem(), SETTINGS[name])
            made.step(0.0)
            sets.append(made.snapshot())
        np.testing.assert_array_equal(sets[0].images, sets[1].images)
        np.testing.assert_array_equal(sets[0].labels, sets[1].labels)

    def test_a_restored_state_goes_on_to_the_same_set(self, name: str) -> None:
        whole = start(name, problem(), SETTINGS[name])
        for done in (0.0, 0.3):
            whole.step(done)
        file = io.BytesIO()
        torch.save(whole.state(), file)
        file.seek(0)
        stored = torch.load(file, weights_only=True)
        resumed = start(name, problem(), SETTINGS[name])
        resumed.restore(stored)
        for each in (whole, resumed):
            each.step(0.6)
        np.testing.assert_array_equal(whole.snapshot().images, resumed.snapshot().images)
        np.testing.assert_array_equal(whole.snapshot().labels, resumed.snapshot().labels)
        assert whole.snapshot().schedule == resumed.snapshot().schedule

    def test_more_workers_than_classes_and_real_images_make_the_set_of_one(self, name: str) -> None:
        settings = SETTINGS[name] | ({"real": 2} if name in ("bptt", "ridge", "unrolled") else {})

        def work(workers: Workers) -> tuple[list[float], Snapshot]:
            made = start(name, replace(problem(), workers=workers), settings)
            return [made.step(done) for done in (0.0, 0.4, 0.7)], made.snapshot()

        losses, alone = work(Workers())
        for other, snapshot in together(4, work):
            np.testing.assert_allclose(other, losses, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(snapshot.images, alone.images, atol=0.05)
            np.testing.assert_allclose(snapshot.labels, alone.labels, atol=1e-4)

    def test_smaller_images_take_the_space_of_whole_ones(self, name: str) -> None:
        posed = problem(formation=2)
        made = start(name, posed, SETTINGS[name])
        made.step(0.0)
        snapshot = made.snapshot()
        assert snapshot.images.shape == (2 * 4 * 3, 1, 4, 4)
        np.testing.assert_array_equal(snapshot.labels.argmax(axis=1), posed.targets)

    def test_a_snapshot_stands_still(self, name: str) -> None:
        made = start(name, problem(), SETTINGS[name])
        taken = made.snapshot()
        before = taken.images.copy(), taken.labels.copy()
        made.step(0.0)
        np.testing.assert_array_equal(taken.images, before[0])
        np.testing.assert_array_equal(taken.labels, before[1])

    def test_an_unknown_setting_is_named(self, name: str) -> None:
        with pytest.raises(UsageError, match="magic"):
            start(name, problem(), {"magic": 1})


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=", ".join(sorted(METHODS))):
        method("alchemy")


def test_random_takes_real_images_of_each_class() -> None:
    posed = problem(ipc=3)
    snapshot = start("random", posed, {}).snapshot()
    for image, target in zip(snapshot.images, posed.targets, strict=True):
        same = (posed.real.images == image).all(axis=(1, 2, 3))
        assert posed.real.targets[same].tolist() == [target]


class TestUnrolled:
    def test_gradient_of_a_pixel_equals_a_finite_difference(self) -> None:
        posed = problem(seed=3, steps=3)
        made = unrolled.Unrolled(posed, unrolled.Settings(noise=0.0, real=12))
        positions = np.arange(12)
        targets = torch.from_numpy(posed.real.targets[positions])

        def loss(pixels: torch.Tensor, differentiable: bool) -> torch.Tensor:
            labels = torch.softmax(made.distilled.logits.double().detach(), dim=1)
            training = Training.begin(posed, 0)
            doubled = {name: value.double() for name, value in training.weights.items()}
            still = {f"momentum.{name}": torch.zeros_like(value) for name, value in doubled.items()}
            training = Training(0, doubled, still)
            training = training.detached()
            for _ in range(3):
                training = descend(posed, training, pixels, labels, 0.1, differentiable=differentiable)
            logits = posed.logits(training.weights, posed.pixels(positions).double())
            return torch.nn.functional.cross_entropy(logits, targets)

        pixels = made.distilled.pixels.detach().double().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(pixels, True), pixels)
        place = np.unravel_index(int(gradient.abs().argmax()), gradient.shape)
        moved = pixels.detach().clone()
        moved[place] += 1e-5
        up = loss(moved, False).item()
        moved[place] -= 2e-5
        down = loss(moved, False).item()
        assert float(gradient[place]) == pytest.approx((up - down) / 2e-5, rel=1e-3)

    @pytest.mark.parametrize(
        "optimiser",
        [
            Sgd(0.9, 0.01),
            Sgd(0.9, 0.01, nesterov=True),
            Sgd(0.5, 0.1, decoupled=True),
            Sgd(0.0),
            AdamW(eps=1e-4, weight_decay=0.1),
        ],
        ids=str,
    )
    def test_descent_equals_torchs_own(self, optimiser: Sgd | AdamW) -> None:
        posed = replace(problem(batch=4, augmentation=Augmentation(shift=0.1)), optimiser=optimiser)
        pixels, labels = posed.pixels(np.arange(6)), torch.eye(3).repeat(2, 1)
        training = Training.begin(posed, 7)
        model = build_model("convnet", {"depth": 2, "width": 4}, (1, 8, 8), 3)
        model.load_state_dict(training.weights)
        reference = optimiser.reference(model.parameters(), optimiser.trial_rate)
        for step in range(3):
            positions = minibatch(7, step, 6, 4)
            uniforms = torch.from_numpy(draw(7, step, (4, 2)))
            batch = augment(pixels[positions], uniforms, posed.augmentation)
            reference.zero_grad()
            torch.nn.functional.cross_entropy(model(batch), labels[positions]).backward()
            reference.step()
            training = descend(posed, training.detached(), pixels, labels, optimiser.trial_rate)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(training.weights[name].detach(), value)

    @pytest.mark.parametrize("settings", [{}, {"window": 2, "pool": 3, "schedule_rate": 0.025}])
    def test_iterations_lower_the_loss_on_real_images(self, settings: dict[str, float]) -> None:
        made = unrolled.Unrolled(problem(steps=6), unrolled.Settings(real=30, sharpness=1.0, **settings))
        losses = [made.step(0.0) for _ in range(30)]
        assert np.mean(losses[-9:]) < 0.85 * np.mean(losses[:9])

    def test_a_window_works_in_every_part_of_the_training(self) -> None:
        settings = unrolled.Settings(window=2, pool=3, real=6, schedule_rate=0.025)
        made = unrolled.Unrolled(problem(steps=6), settings)
        seen = set()
        for _ in range(12):
            made.step(0.0)
            seen |= {each.step for each in made.pool.trainings}
        assert seen == {0, 2, 4}
        rates = np.array(made.snapshot().schedule.rates)
        assert (rates != 0.05).all()

    @pytest.mark.parametrize(("steps", "pool", "learnt"), [(4, 1, True), (5, 3, False)])
    def test_only_a_whole_training_learns_its_rates_unasked(self, steps: int, pool: int, learnt: bool) -> None:
        made = unrolled.Unrolled(problem(steps=steps), unrolled.Settings(window=4, pool=3, real=6))
        made.step(0.0)
        assert len(made.pool) == pool
        assert (made.snapshot().schedule is not None) == learnt

    def test_a_schedule_that_is_kept_is_not_learnt(self) -> None:
        made = unrolled.Unrolled(problem(), unrolled.Settings(real=6, schedule_rate=0.0))
        before = made.rates.detach().clone()
        made.step(0.0)
        assert made.snapshot().schedule is None
        torch.testing.assert_close(made.rates.detach(), before)

    def test_learning_rates_stay_within_their_bounds(self) -> None:
        settings = unrolled.Settings(real=6, schedule_rate=1.0, lowest=0.05, highest=0.2)
        made = unrolled.Unrolled(problem(), settings)
        for _ in range(5):
            made.step(0.0)
        rates = np.array(made.snapshot().schedule.rates)
        assert rates.min() >= 0.05 * (1 - 1e-6)
        assert rates.max() <= 0.2 * (1 + 1e-6)

    def test_a_learning_rate_comes_back_from_its_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = unrolled.Unrolled(problem(), unrolled.Settings(real=6, schedule_rate=1.0, lowest=0.01, highest=0.2))
        slopes = iter([1.0, 1.0, *[-1.0] * 40])
        monkeypatch.setattr(unrolled, "real_loss", lambda *given: next(slopes) * made.rates.exp().sum())
        for _ in range(2):
            made.step(0.0)
        torch.testing.assert_close(made.rates.detach().exp(), torch.full((4,), 0.01))
        for _ in range(40):
            made.step(0.0)
        torch.testing.assert_close(made.rates.detach().exp(), torch.full((4,), 0.2))

    def test_pixels_are_seen_as_the_bundle_will_store_them(self) -> None:
        pixels = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (3, 2, 4, 4)).astype(np.float32))
        for levels in (256, 16):
            stored = Pixels.encode(pixels.numpy(), "uint8", levels).decode()
            np.testing.assert_allclose(images.rounded(pixels, levels).numpy(), stored, atol=1e-5)

    def test_identical_images_make_no_noise_on_stderr(self) -> None:
        posed = problem()
        posed.real.images[...] = posed.real.images[0]
        assert len(unrolled.Unrolled(posed).distilled.pixels) == 6

    def test_no_first_image_is_a_real_one(self) -> None:
        posed = problem()
        first = unrolled.Unrolled(posed).distilled.pixels.detach().flatten(1)
        real = posed.pixels(np.arange(60)).flatten(1)
        assert torch.cdist(first, real).min() > 1.0

    def test_an_image_like_no_other_is_no_centre_of_its_own(self) -> None:
        values = np.random.default_rng(0).normal(size=(12, 4))
        values[3] += 100.0
        labels = (np.arange(12) == 3).astype(np.int64)
        found = np.stack([values[labels == 0].mean(axis=0), values[3]])
        made = images.averages(values, labels, found)
        np.testing.assert_array_equal(made[0], found[0])
        nearest = sorted(range(12), key=lambda index: float(np.linalg.norm(values[index] - values[3])))[:5]
        np.testing.assert_allclose(made[1], values[nearest].mean(axis=0))
        alone = images.averages(values[:1], labels[:1], values[:1])
        np.testing.assert_array_equal(alone, values[:1])

    @pytest.mark.parametrize(("name", "value"), [("window", 0), ("lowest", 0.9)])
    def test_settings_out_of_range(self, name: str, value: float) -> None:
        with pytest.raises(UsageError, match=name):
            start("unrolled", problem(), {name: value})


class TestPool:
    def test_trainings_go_on_where_the_problem_is(self) -> None:
        state = Pool(problem(steps=6), 2, np.random.default_rng(0)).state()
        pool = Pool(problem(steps=6), 2, np.random.default_rng(0))
        pool._problem = replace(pool._problem, device="meta")
        pool.restore(state)
        assert {each.device.type for training in pool.trainings for each in training.weights.values()} == {"meta"}

    def test_ages_spread_over_the_schedule_without_a_step_in_vain(self) -> None:
        pool = Pool(problem(steps=6), 3, np.random.default_rng(0))
        ages = []
        for _ in range(12):
            for slot, training in enumerate(pool.trainings):
                pool.put(slot, replace(training, step=training.step + 1), np.random.default_rng(slot))
            ages.append(tuple(each.step for each in pool.trainings))
        assert ages[:2] == [(1, 1, 1), (0, 2, 2)]
        assert ages[-6:] == [(5, 3, 1), (0, 4, 2), (1, 5, 3), (2, 0, 4), (3, 1, 5), (4, 2, 0)]

    def test_a_training_that_diverged_makes_room(self) -> None:
        pool = Pool(problem(steps=6), 1, np.random.default_rng(0))
        training = pool.trainings[0]
        lost = {name: value * float("nan") for name, value in training.weights.items()}
        pool.put(0, replace(training, weights=lost, step=1), np.random.default_rng(1))
        assert pool.trainings[0].step == 0
        assert all(torch.isfinite(value).all() for value in pool.trainings[0].weights.values())


class TestRidge:
    def test_loss_equals_scikit_learns_ridge_regression(self) -> None:
        from sklearn.linear_model import Ridge

        rng = np.random.default_rng(0)
        distilled, real = rng.normal(size=(9, 20)), rng.normal(size=(30, 20))
        labels, targets = rng.dirichlet(np.ones(3), 9), rng.integers(0, 3, 30)
        share = 0.1
        alpha = share * np.trace(distilled @ distilled.T) / 9
        fitted = Ridge(alpha=alpha, fit_intercept=False).fit(distilled, labels - 1 / 3)
        errors = fitted.predict(real) - (np.eye(3)[targets] - 1 / 3)
        found = ridge.regression_loss(
            (torch.from_numpy(distilled), torch.from_numpy(labels)),
            (torch.from_numpy(real), torch.from_numpy(targets)),
            ridge=share,
        )
        assert float(found) == pytest.approx(0.5 * (errors**2).sum(1).mean(), rel=1e-6)

    def test_features_that_are_all_zero_move_nothing_and_stop_nothing(self) -> None:
        made = ridge.Ridge(problem(), ridge.Settings(pool=1, real=12))
        for value in made.pool.trainings[0].weights.values():
            value.zero_()
        before = made.distilled.pixels.detach().clone()
        assert not np.isfinite(made.step(0.0))
        torch.testing.assert_close(made.distilled.pixels.detach(), before)

    def test_gradient_reaches_pixels_and_labels(self) -> None:
        made = ridge.Ridge(problem(), ridge.Settings(pool=2, real=12))
        before = made.distilled.pixels.detach().clone(), made.distilled.logits.detach().clone()
        made.step(0.0)
        assert (made.distilled.pixels != before[0]).all()
        assert (made.distilled.logits != before[1]).any()

    def test_iterations_lower_the_loss_on_real_images(self) -> None:
        posed = problem(steps=6, augmentation=Augmentation(shift=0.1))
        made = ridge.Ridge(posed, ridge.Settings(pool=3, real=30, sharpness=1.0, rate=0.05))
        losses = [made.step(0.0) for _ in range(40)]
        assert np.mean(losses[-9:]) < 0.85 * np.mean(losses[:9])

    def test_a_network_trains_as_a_device_does(self) -> None:
        """After its steps, a network of the pool has the weights that the reference training gives at that point."""
        posed = problem(steps=3, augmentation=Augmentation(shift=0.1))
        made = ridge.Ridge(posed, ridge.Settings(pool=1, real=12, rate=0.0, label_rate=0.0))
        seed = made.pool.trainings[0].seed
        snapshot = made.snapshot()
        labels = torch.from_numpy(snapshot.labels)
        expected = Training.begin(posed, seed)
        stored = Pixels.encode(snapshot.images, "uint8").decode()
        normalised = posed.normalise(torch.from_numpy(stored))
        for step in range(2):
            made.step(0.0)
            rate = posed.schedule.learning_rate(step)
            expected = descend(posed, expected.detached(), normalised, labels, rate)
        for name, value in expected.weights.items():
            torch.testing.assert_close(made.pool.trainings[0].weights[name], value, atol=1e-5, rtol=1e-4)

    def test_no_regularisation_is_refused(self) -> None:
        with pytest.raises(UsageError, match="ridge"):
            start("ridge", problem(), {"ridge": 0.0})


class Counting:
    """A method whose set is the number of its iterations."""

    def __init__(self, interrupt_at: int = 0) -> None:
        self.count = 0
        self.interrupt_at = interrupt_at

    def step(self, done: float) -> float:
        assert 0.0 <= done < 1.0
        self.count += 1
        if self.count == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return float(self.count)

    def snapshot(self) -> Snapshot:
        return Snapshot(np.full((1, 1, 1, 1), self.count, np.float32), np.ones((1, 1), np.float32), Schedule(1, 1))

    def state(self) -> dict[str, int]:
        return {"count": self.count}

    def restore(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def nearest(target: int) -> object:
    """A judge that likes the snapshot closest to iteration ``target`` best."""
    return lambda snapshot: 1.0 - abs(float(snapshot.images[0, 0, 0, 0]) - target) / 100


NOWHERE = Checkpoint(None, {})


class TestDriver:
    def test_the_best_snapshot_wins_not_the_last(self) -> None:
        outcome = drive(Counting(), Budget(iterations=20), nearest(8), NOWHERE)
        assert outcome.best.images[0, 0, 0, 0] == 8
        assert outcome.score == 1.0
        assert outcome.iterations == 20
        assert [iteration for iteration, _ in outcome.curve] == list(range(2, 21, 2))

    def test_the_last_iteration_is_judged_too(self) -> None:
        outcome = drive(Counting(), Budget(iterations=13), nearest(13), NOWHERE)
        assert outcome.best.images[0, 0, 0, 0] == 13

    def test_a_time_budget_ends(self) -> None:
        statuses: list[Status] = []
        outcome = drive(Counting(), Budget(seconds=0.05), nearest(1), NOWHERE, report=statuses.append)
        assert outcome.seconds >= 0.05
        assert statuses[-1].done == 1.0

    def test_ctrl_c_keeps_the_best_and_resumes_to_the_same_end(self, tmp_path: Path) -> None:
        checkpoint = Checkpoint(tmp_path / "job.resume", {"ipc": 1})
        handler = signal.getsignal(signal.SIGINT)
        stopped = drive(Counting(interrupt_at=7), Budget(iterations=20), nearest(6), checkpoint)
        assert stopped.interrupted
        assert stopped.iterations == 7
        assert stopped.best.images[0, 0, 0, 0] == 6
        assert signal.getsignal(signal.SIGINT) is handler
        resumed = drive(Counting(), Budget(iterations=20), nearest(6), checkpoint, resume=True)
        whole = drive(Counting(), Budget(iterations=20), nearest(6), NOWHERE)
        assert not resumed.interrupted
        assert resumed.curve == whole.curve
        assert resumed.best.images[0, 0, 0, 0] == whole.best.images[0, 0, 0, 0] == 6
        assert resumed.best.schedule == Schedule(1, 1)
        checkpoint.remove()
        assert not list(tmp_path.iterdir())

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="nothing to resume"):
            drive(Counting(), Budget(iterations=2), nearest(1), Checkpoint(tmp_path / "none", {}), resume=True)

    def test_another_jobs_checkpoint_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "job.resume"
        drive(Counting(interrupt_at=1), Budget(iterations=5), nearest(1), Checkpoint(path, {"ipc": 1}))
        with pytest.raises(UsageError, match="found ipc 1; expected ipc 2"):
            drive(Counting(), Budget(iterations=5), nearest(1), Checkpoint(path, {"ipc": 2}), resume=True)

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 a broken archive"])
    def test_a_damaged_checkpoint_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "job.resume"
        path.write_bytes(content)
        with pytest.raises(UsageError, match="damaged"):
            drive(Counting(), Budget(iterations=5), nearest(1), Checkpoint(path, {}), resume=True)

    def test_a_state_of_another_device_goes_on_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = Checkpoint(tmp_path / "job.resume", {})
        made = start("ridge", problem(), SETTINGS["ridge"])
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:7")
            checkpoint.save(made, Run())
        resumed = start("ridge", problem(), SETTINGS["ridge"])
        checkpoint.load(resumed)
        assert resumed.step(0.5) == made.step(0.5)

    def test_a_network_that_cannot_be_differentiated_twice_is_named(self) -> None:
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3), torch.nn.Hardsigmoid())

        class Twice(Counting):
            def step(self, done: float) -> float:
                images = torch.rand(2, 3, 4, 4, requires_grad=True)
                (slope,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
                return float(torch.autograd.grad(slope.square().sum(), images)[0].sum())

        with pytest.raises(ProgramError, match=r"(?s)gradient of a gradient.*hardsigmoid_backward.*choose a method"):
            drive(Twice(), Budget(iterations=1), nearest(1), NOWHERE)

    def test_another_fault_of_a_method_stays_what_it_is(self) -> None:
        class Faulty(Counting):
            def step(self, done: float) -> float:
                raise RuntimeError("something else")

        with pytest.raises(RuntimeError, match="something else"):
            drive(Faulty(), Budget(iterations=1), nearest(1), NOWHERE)

    def test_of_two_budgets_the_first_to_end_sets_the_pace_of_judgements(self) -> None:
        outcome = drive(Counting(), Budget(iterations=10**9, seconds=0.2), nearest(1), NOWHERE)
        assert len(outcome.curve) > 2

    def test_a_full_disk_is_told_and_the_work_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path, data: bytes) -> None:
            raise ResourceError("no space left to write the file", where=path)

        monkeypatch.setattr(checkpoint, "write_atomically", full)
        said: list[str] = []
        outcome = drive(Counting(), Budget(iterations=5), nearest(5), Checkpoint(tmp_path / "job", {}, said.append))
        assert outcome.score == 1.0
        assert "no space left" in said[0]

    def test_sets_on_which_training_diverges_are_passed_over(self) -> None:
        def judge(snapshot: Snapshot) -> float:
            if snapshot.images[0, 0, 0, 0] > 4:
                raise Diverged("too hot")
            return 0.5

        outcome = drive(Counting(), Budget(iterations=20), judge, NOWHERE)
        assert outcome.best.images[0, 0, 0, 0] == 4

    def test_nothing_but_diverging_is_an_error(self) -> None:
        def judge(snapshot: Snapshot) -> float:
            raise Diverged("too hot")

        with pytest.raises(Diverged, match="every training diverged over 3 iterations"):
            drive(Counting(), Budget(iterations=3), judge, NOWHERE)


def test_annealing_falls_from_the_rate_to_its_floor() -> None:
    rates = [annealed(2.0, done) for done in np.linspace(0, 1, 11)]
    assert rates[0] == 2.0
    assert rates[-1] == pytest.approx(0.06)
    assert rates == sorted(rates, reverse=True)
