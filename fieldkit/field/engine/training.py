"""Training on a device: the loop around a bundle's train program.

Everything the loop needs from one step to the next is a ``TrainingState`` (parameters, optimiser states, step); the
order of the images and the augmentation follow from (seed, step) alone.  So a training that is cut anywhere and resumed
from its state ends with the same bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.recipe import AVERAGE, Initial, Recipe, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import draw, initial_weights, uniforms
from fieldkit.errors import Diverged, IncompatibleBundle, UsageError
from fieldkit.field.engine import augmentation
from fieldkit.field.engine.session import Stepper, available_threads, check_scope

ORDERS = 2 << 32
MAX_SEED = (1 << 63) - 1

Progress = Callable[[int, int, float], None]
Feeding: TypeAlias = "Callable[[Mapping[str, np.ndarray], Samples, int, str], Feed]"
"""Makes a ``Feed`` of a program's input arrays, the samples, the seed, and a name for messages."""


@dataclass(frozen=True)
class TrainingState:
    """All that a training carries from step to step.

    tensors: float32, by name with prefix: ``param.NAME`` and ``state.NAME``.
    step: how many steps were made; also the index of the next one.
    """

    tensors: Mapping[str, np.ndarray]
    step: int = 0


@dataclass(frozen=True)
class Options:
    """How to train, where the bundle leaves a choice.

    seed: of initial weights ("init random"), order and augmentation.
    steps: None takes the recipe's own number; any other stretches the recipe's schedule.
    threads: None takes every processor.
    progress: called after each step with (steps made, steps to make, loss).
    """

    seed: int = 0
    steps: int | None = None
    threads: int | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Trained:
    """What a training made.

    weights: float32 by parameter name.  losses: float32 [steps], each taken before its step changed the weights.
    """

    recipe: Recipe
    weights: Mapping[str, np.ndarray]
    losses: np.ndarray
    seed: int
    steps: int


def train(
    bundle: Bundle,
    recipe: str | None = None,
    *,
    seed: int = 0,
    steps: int | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train one recipe of ``bundle`` on its distilled set.

    recipe: None takes the bundle's first.  The other options are those of ``Options``.
    Raises UsageError for an unknown recipe or an option out of range, ProgramError if the program cannot run,
    Diverged if the loss stops being a number.
    """
    chosen = choose_recipe(bundle, recipe)
    return fit(chosen, bundle.training_set(), Options(seed, steps, threads, progress))


def fit(recipe: Recipe, samples: Samples, options: Options = Options()) -> Trained:
    """Train ``recipe`` on ``samples``: float32 native counts and float32 soft labels."""
    schedule = recipe.schedule if options.steps is None else stretched(recipe.schedule, options.steps)
    trainer = Trainer(recipe, threads=options.threads)
    return trainer.fit(samples, seed=options.seed, schedule=schedule, progress=options.progress)


def choose_recipe(bundle: Bundle, name: str | None) -> Recipe:
    """The recipe of this name, or the bundle's first.  Raises UsageError that lists the names."""
    chosen = bundle.manifest.recipes[0] if name is None else name
    if chosen not in bundle.recipes:
        raise UsageError(
            "the bundle has no such recipe", where="recipe", found=chosen, expected=" or ".join(bundle.manifest.recipes)
        )
    return bundle.recipes[chosen]


def stretched(schedule: Schedule, steps: int) -> Schedule:
    """``schedule`` over another number of steps.  Raises UsageError for less than one."""
    if steps < 1:
        raise UsageError("too few steps", where="steps", found=steps, expected="at least 1")
    return schedule if steps == schedule.steps else schedule.with_steps(steps)


def begin(recipe: Recipe, scope: str, seed: int, initial: Initial | None = None) -> TrainingState:
    """The state before the first step of a training; ``initial`` None takes the recipe's.

    Raises UsageError for a seed out of range, or a scope that the recipe has no train program of.
    """
    if not 0 <= seed <= MAX_SEED:
        raise UsageError("a seed out of range", where="seed", found=seed, expected=f"0 to {MAX_SEED}")
    check_scope(recipe, scope)
    weights = initial_weights(recipe.parameters, initial or recipe.initial, seed)
    tensors = {f"param.{name}": values for name, values in weights.items()}
    tensors |= {f"state.{each.name}": draw(each, seed, 0) for each in recipe.state[scope]}
    return TrainingState(tensors)


def minibatch(seed: int, step: int, count: int, batch: int) -> np.ndarray:
    """Positions of the samples of step ``step``: int64 [batch].

    Epoch e is a permutation of all ``count`` samples; the epochs follow each other without a gap, and step s takes
    places s * batch to (s + 1) * batch of that row.  No step is short, and each sample is seen equally often.
    """
    first = step * batch
    epochs = range(first // count, (first + batch - 1) // count + 1)
    row = np.concatenate([_order(seed, epoch, count) for epoch in epochs])
    start = first - epochs[0] * count
    return row[start : start + batch]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.argsort(uniforms(seed, ORDERS + epoch, count), kind="stable")


class Trainer:
    """One opened train program that trains as often as asked, with different samples, schedules and seeds.

    Opening a session costs as much as many steps of a small network; whoever trains often keeps the Trainer.
    A Trainer is not safe to share between threads.
    """

    def __init__(
        self, recipe: Recipe, *, scope: str = "full", threads: int | None = None, frugal: bool = False
    ) -> None:
        self.recipe = recipe
        self.scope = scope
        self.threads = available_threads() if threads is None else threads
        self._stepper = Stepper(recipe, scope, self.threads, frugal)
        self.batch = len(self._stepper.feeds["images"])

    def fit(
        self,
        samples: Samples,
        *,
        seed: int = 0,
        schedule: Schedule | None = None,
        initial: Initial | None = None,
        progress: Progress | None = None,
    ) -> Trained:
        """Train through the whole of ``schedule`` from ``initial``; None takes the recipe's.

        Same samples, seed, schedule, initial weights, machine and versions: the same bits.
        """
        schedule = schedule or self.recipe.schedule
        losses = []
        for step, loss in self.run(samples, self.begin(seed, initial), seed=seed, schedule=schedule):
            losses.append(loss)
            if progress is not None:
                progress(step + 1, schedule.steps, loss)
        return Trained(self.recipe, self.weights(), np.array(losses, np.float32), seed, schedule.steps)

    def begin(self, seed: int, initial: Initial | None = None) -> TrainingState:
        """The state before the first step."""
        return begin(self.recipe, self.scope, seed, initial)

    def run(
        self, samples: Samples, state: TrainingState, *, seed: int, schedule: Schedule, feeding: Feeding | None = None
    ) -> Generator[tuple[int, float], None, None]:
        """Train from ``state`` to the end of ``schedule``; yields each step's index and loss once it is made.

        feeding: makes what fills the program's inputs; None takes ``Feed``.
        Raises Diverged as soon as a loss is not finite.
        """
        feed = (feeding or Feed)(self._stepper.feeds, samples, seed, self.recipe.name)
        self._stepper.load(state.tensors)
        steps = range(state.step, schedule.steps)
        for step in feed.ahead(steps):
            self._stepper.feeds["lr"][...] = schedule.learning_rate(step)
            loss = self._stepper.step()
            if not math.isfinite(loss):
                raise _diverged(self.recipe.name, f"loss {loss} at step {step + 1} of {schedule.steps}")
            yield step, loss
        if not all(np.isfinite(values).all() for values in self.weights().values()):
            raise _diverged(self.recipe.name, f"weights that are not finite after step {schedule.steps}")

    def state(self, step: int) -> TrainingState:
        """A copy of the state after ``step`` steps were made; call it between two steps of ``run``."""
        return TrainingState(self._stepper.tensors(), step)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what the host feeds the program at each step, by name."""
        return {name: each.shape for name, each in self._stepper.feeds.items()}

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of the current model, float32 by name: a parameter's moving average where the recipe keeps one."""
        tensors = self._stepper.tensors()
        names = [each.name for each in self.recipe.parameters]
        return {name: tensors.get(f"state.{AVERAGE}.{name}", tensors[f"param.{name}"]) for name in names}


class Feed:
    """Fills the arrays that the train program reads: samples, step, augmentation and other randoms."""

    def __init__(self, feeds: Mapping[str, np.ndarray], samples: Samples, seed: int, where: str) -> None:
        self.feeds = feeds
        self.seed = seed
        self.randoms = augmentation.in_order(feeds)
        self.batch, self.classes = feeds["targets"].shape
        self.samples = samples
        self._check(where)
        if "class_mask" in feeds:
            # Soft labels say how many classes are in use; the others are spare ones, and off.
            used = self.classes if samples.targets.ndim == 1 else samples.targets.shape[1]
            feeds["class_mask"][...] = np.arange(self.classes) < used
        feeds["weights"][...] = 1.0
        if self.positions(0) is None:
            # The whole set fits: it is written once.  What pads it are real samples, so that nothing can overflow,
            # and weight 0 keeps them out of the loss.
            self._set(self._chosen(np.arange(self.batch) % len(samples)))
            feeds["weights"][len(samples) :] = 0.0

    def ahead(self, steps: Sequence[int]) -> Iterator[int]:
        """Each step in turn, once all that it reads but the learning rate is set.

        What the next step reads is drawn and gathered beside the step at hand, since onnxruntime leaves Python free.
        """
        with ThreadPoolExecutor(1) as host:
            coming = [host.submit(self._prepared, step) for step in steps[:1]]
            for step, following in itertools.zip_longest(steps, steps[1:]):
                self._set(coming.pop().result())
                if following is not None:
                    coming.append(host.submit(self._prepared, following))
                yield step

    def fill(self, step: int) -> None:
        """Set all that step ``step`` reads but the learning rate."""
        self._set(self._prepared(step))

    def positions(self, step: int) -> np.ndarray | None:
        """Which samples step ``step`` takes, int64 [batch]; None if each step takes all, and the rest is padding."""
        if len(self.samples) <= self.batch:
            return None
        return minibatch(self.seed, step, len(self.samples), self.batch)

    def _prepared(self, step: int) -> dict[str, np.ndarray]:
        """What changes from step to step, by the names of inputs; ``random`` stands for all of ``random.<i>``."""
        made = {"step": np.array(step, np.float32)}
        positions = self.positions(step)
        if positions is not None:
            made |= self._chosen(positions)
        if "aug" in self.feeds:
            made["aug"] = augmentation.draw(self.seed, step, self.feeds["aug"].shape)
        return made | {"random": augmentation.draw_randoms(self.seed, step, sum(each.size for each in self.randoms))}

    def _set(self, made: Mapping[str, np.ndarray]) -> None:
        for name in made.keys() & self.feeds.keys():
            self.feeds[name][...] = made[name]
        if "random" not in made:
            return
        parts = np.split(made["random"], np.cumsum([each.size for each in self.randoms])[:-1])
        for each, values in zip(self.randoms, parts, strict=False):
            each[...] = values.reshape(each.shape)

    def _chosen(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        chosen = self.samples.take(positions)
        if chosen.targets.ndim == 1:
            return {"images": chosen.images, "targets": chosen.targets[:, None] == np.arange(self.classes)}
        return {"images": chosen.images, "targets": widened(chosen.targets, self.classes)}

    def _check(self, where: str) -> None:
        """The samples fit the program: at least one, all of its image shape and of its classes."""
        images, targets = self.samples.images, self.samples.targets
        shape = self.feeds["images"].shape[1:]
        hard = targets.ndim == 1 and len(targets) > 0 and targets.min() >= 0 and targets.max() < self.classes
        soft = targets.ndim == 2 and len(targets) == len(images) and 1 <= targets.shape[1] <= self.classes
        if "class_mask" not in self.feeds:
            soft = soft and targets.shape[1] == self.classes
        if images.shape[1:] == shape and (hard or soft) and len(images) > 0:
            return
        raise IncompatibleBundle(
            "samples that the recipe's train program cannot take",
            where=f"recipe {where}",
            found=f"images {images.shape}, targets {targets.shape}",
            expected=f"images (n, {', '.join(map(str, shape))}) and labels of up to {self.classes} classes, n >= 1",
            remedy="choose another recipe, or build the bundle again with fieldkit build",
        )


def widened(targets: np.ndarray, classes: int) -> np.ndarray:
    """Soft labels float32 [n, k] as [n, classes]: 0 for the classes that are off."""
    return np.pad(targets, ((0, 0), (0, classes - targets.shape[1])))


def _diverged(recipe: str, found: str) -> Diverged:
    return Diverged(
        "the training diverged",
        where=f"recipe {recipe}",
        found=found,
        expected="a finite loss",
        remedy="train with another --seed or the bundle's own --steps; if it happens again, the bundle is at fault",
    )
