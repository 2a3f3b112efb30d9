"""What a device's training gives in torch itself: the score beside which the field engine's must stand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.samples import Samples
from fieldkit.bundle.weights import initial_weights
from fieldkit.field.engine.augmentation import in_order
from fieldkit.field.engine.session import Stepper
from fieldkit.field.engine.training import Feed
from fieldkit.field.programs.interface import RANDOM
from fieldkit.hq.compiler.programs import Prediction, Sizes, TrainingLoss
from fieldkit.hq.compiler.randomness import replayed
from fieldkit.hq.compiler.scopes import set_modes, trained_parameters
from fieldkit.hq.compiler.updates import TorchUpdate, Update
from fieldkit.hq.models.laws import carried_buffers, load_weights

SCOPE = "full"
BATCH = 500


@dataclass(frozen=True)
class Reference:
    """A recipe in torch: its module, whose weights are not touched, and how it is trained.

    recipe: tells the schedule, the augmentation, the first weights, and what the host feeds.
    """

    recipe: Recipe
    module: nn.Module
    radiometry: Radiometry
    update: Update

    def accuracies(self, samples: Samples, seeds: Sequence[int], test: Samples) -> list[float]:
        """The accuracy (0-1) on ``test`` of one training on ``samples`` per seed.

        samples: float32 native counts [n, c, h, w] at the input's size, and float32 soft labels [n, k].
        """
        feeds = Stepper(self.recipe, SCOPE).feeds
        classes = samples.targets.shape[1]
        return [self._score(self.train(samples, seed, feeds), test, classes) for seed in seeds]

    def train(self, samples: Samples, seed: int, feeds: dict[str, np.ndarray]) -> nn.Module:
        """The trained module.  feeds: the arrays that the host fills for the program, which torch reads as well."""
        recipe = self.recipe
        batch, classes = feeds["targets"].shape
        _, channels, height, width = feeds["images"].shape
        smoothing = self.update.regularisation.label_smoothing
        sizes = Sizes(batch, (channels, height, width), classes)
        model = copy.deepcopy(self.module).cpu()
        loss = TrainingLoss(model, self.radiometry, recipe.augmentation, sizes, smoothing)
        load_weights(model, initial_weights(recipe.parameters, recipe.initial, seed))
        trained = trained_parameters(model, SCOPE)
        set_modes(model, trained)
        update = TorchUpdate(self.update, model, trained, [each.name for each in carried_buffers(model)])
        feed = Feed(feeds, samples, seed, recipe.name)
        given = {name: torch.from_numpy(each) for name, each in feeds.items() if not name.startswith(RANDOM)}
        for scalar in ("lr", "step"):
            given.pop(scalar, None)
        for step in range(recipe.schedule.steps):
            feed.fill(step)
            for parameter in update.parameters.values():
                parameter.grad = None
            with replayed(in_order(feeds)):
                value = loss(**given)
            value.backward()
            update.step(recipe.schedule.learning_rate(step))
        load_weights(model, {name: each.numpy() for name, each in update.model().items()})
        return model

    def _score(self, model: nn.Module, test: Samples, classes: int) -> float:
        prediction = Prediction(model, self.radiometry, classes).eval()
        right = 0
        with torch.no_grad():
            for first in range(0, len(test), BATCH):
                part = test.take(slice(first, first + BATCH))
                guesses = prediction(torch.from_numpy(part.images)).argmax(dim=1).numpy()
                right += int((guesses == part.targets).sum())
        return right / len(test)
