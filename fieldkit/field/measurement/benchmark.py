"""How fast this device trains and runs a bundle's recipes, what that takes, and whether it fits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.reader import read_bundle
from fieldkit.bundle.recipe import Recipe
from fieldkit.bundle.weights import initial_weights
from fieldkit.errors import ResourceError
from fieldkit.field.compression.calibration import sensor_images
from fieldkit.field.device.description import Device
from fieldkit.field.device.sensors import Meter, Sensors
from fieldkit.field.endurance.rehearsal import Rehearsal, Scene, rehearse
from fieldkit.field.engine.training import Options, Trained, fit
from fieldkit.field.measurement.ranking import Cost
from fieldkit.field.measurement.trial import cost
from fieldkit.field.models import exporting

YARDSTICK = Path(__file__).with_name("yardstick.h5")
"""A small bundle that every device is measured with; made by tools/make_yardstick.py."""
SAMPLING = 0.2
"""Seconds between two readings of the power."""
FILES = 4
"""What a training writes, in sizes of its state: two generations, one that is being written, and the model."""


@dataclass(frozen=True)
class Measurement:
    """What one recipe takes here.

    training: its steps in a process of their own; None, with ``fault`` saying why, where they cannot be made.
    inference: of the model that comes out.
    whole: seconds and joules of a whole training, if one was made; None where power cannot be read.
    """

    recipe: Recipe
    training: Rehearsal | None
    inference: Cost | None
    whole: tuple[float, float | None] | None = None
    fault: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long a training takes, by its steps: seconds."""
        if self.training is None:
            return None
        return self.training.opening + self.recipe.schedule.steps * self.training.mean

    @property
    def files(self) -> int:
        """Bytes on the disk that a training takes while it runs."""
        states = sum(each.size for each in self.recipe.state["full"]) if "full" in self.recipe.state else 0
        return FILES * 4 * (self.recipe.size + states)

    def misfits(self, device: Device) -> list[str]:
        """Why the recipe does not fit the device: one sentence each, none if it does."""
        if self.training is None:
            return [self.fault or "it does not run"]
        found = []
        if device.memory_free is not None and self.training.process > device.memory_free:
            found.append(f"memory: {self.training.process / 1e6:.0f} MB of {device.memory_free / 1e6:.0f} MB free")
        if device.disk_free is not None and self.files > device.disk_free:
            found.append(f"disk: {self.files / 1e6:.1f} MB of {device.disk_free / 1e6:.1f} MB free")
        return found

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"recipe": self.recipe.name, "parameters": self.recipe.size, "fault": self.fault}
        if self.training is not None:
            low, middle, high = np.percentile(self.training.steps, (25, 50, 75))
            document["training"] = {
                "batch": self.training.batch,
                "steps": self.recipe.schedule.steps,
                "step_seconds": {"median": middle, "quartiles": [low, high], "n": len(self.training.steps)},
                "samples_per_second": self.training.batch / middle,
                "seconds": self.seconds,
                "memory": self.training.process,
                "joules_per_step": self.training.joules,
            }
        if self.inference is not None:
            document["inference"] = self.inference.to_json()
        if self.whole is not None:
            document["whole"] = {"seconds": self.whole[0], "joules": self.whole[1]}
        return document


def bench(
    bundle: Bundle,
    recipe: Recipe,
    *,
    seconds: float,
    threads: int | None = None,
    whole: bool = False,
    sensors: Sensors | None = None,
) -> Measurement:
    """Train and run ``recipe`` for about ``seconds`` in all, each in a process of its own.

    whole: make a whole training too, in this process, and throw its model away.
    A recipe that does not fit is no error: the measurement says why.
    """
    weights = initial_weights(recipe.parameters, recipe.initial, 0)
    try:
        training = rehearse(Scene(recipe, threads=threads, seconds=seconds / 2))
        made = exporting.export(Trained(recipe, weights, np.zeros(0, np.float32), 0, recipe.schedule.steps), bundle)
        inference = cost(made, sensor_images(bundle)[0], threads, seconds / 2)
    except ResourceError as error:
        return Measurement(recipe, None, None, fault=error.message)
    return Measurement(recipe, training, inference, _whole(bundle, recipe, threads, sensors) if whole else None)


def yardstick() -> Bundle:
    """The bundle that every device is measured with: convnet of width 32 on 32 x 32 pixels with 3 bands, batch 32."""
    return read_bundle(YARDSTICK)


@contextmanager
def metered(sensors: Sensors | None = None) -> Iterator[Meter]:
    """A meter that is read all along the block, from a thread beside it."""
    meter, over = Meter(sensors or Sensors()), threading.Event()

    def look() -> None:
        while not over.wait(SAMPLING):
            meter.read()

    beside = threading.Thread(target=look, daemon=True)
    beside.start()
    try:
        yield meter
    finally:
        over.set()
        beside.join()
        meter.read()


def _whole(bundle: Bundle, recipe: Recipe, threads: int | None, sensors: Sensors | None) -> tuple[float, float | None]:
    with metered(sensors) as meter:
        began = time.perf_counter()
        fit(recipe, bundle.training_set(), Options(threads=threads))
        return time.perf_counter() - began, meter.joules
