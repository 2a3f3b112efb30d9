"""A bundle small enough to write and read in a millisecond; its programs are bytes that nothing runs."""

from __future__ import annotations

import numpy as np

from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.manifest import Expectation, Manifest
from fieldkit.bundle.pixels import Pixels
from fieldkit.bundle.radiometry import Radiometry
from fieldkit.bundle.recipe import Augmentation, Initial, Recipe, Schedule, Tensor
from fieldkit.bundle.samples import Samples

CLASSES = ("oak", "pine", "rock")
SHAPE = (2, 4, 3)


def manifest(recipes: tuple[str, ...] = ("net",)) -> Manifest:
    return Manifest(
        name="tiny",
        task="classification",
        classes=CLASSES,
        input_shape=SHAPE,
        radiometry=Radiometry(("red", "nir"), "uint8", (100.0, 50.5), (20.0, 1.0)),
        method={"name": "random", "ipc": 1},
        recipes=recipes,
        provenance={"source": "made by hand"},
        licence="CC0-1.0",
        expectations={recipes[0]: {"held-out": Expectation(0.5, 0.1, 0.25, 0.75, 3, 40)}},
    )


def recipe(name: str = "net", weights: bool = False, seed: int | None = 7) -> Recipe:
    parameters = (Tensor("conv.weight", (2, 2, 3, 3), ("uniform", 0.5)), Tensor("head.bias", (3,), ("constant", 0.0)))
    stored = {each.name: np.arange(each.size, dtype=np.float16).reshape(each.shape) for each in parameters}
    return Recipe(
        name=name,
        architecture={"name": "convnet", "width": 2},
        parameters=parameters,
        state={"full": tuple(Tensor(f"momentum.{each.name}", each.shape, ("constant", 0.0)) for each in parameters)},
        programs={"predict": b"predict program " * 30, "train/full": b"train program"},
        schedule=Schedule(steps=2, batch=3, kind="listed", rates=(0.1, 0.01)),
        augmentation=Augmentation(shift=0.125, flip=True),
        initial=Initial(seed=seed, weights=stored if weights else {}),
    )


def bundle(probe: bool = True, weights: bool = False, card: bool = True) -> Bundle:
    count = len(CLASSES)
    images = np.arange(count * np.prod(SHAPE), dtype=np.float32).reshape(count, *SHAPE) * 3.5 - 20
    return Bundle(
        manifest=manifest(),
        images=Pixels.encode(images, "uint8"),
        labels=np.eye(count, dtype=np.float16) * np.float16(0.9),
        recipes={"net": recipe(weights=weights)},
        probe=Samples(np.full((4, *SHAPE), 9, np.uint8), np.array([0, 1, 2, 0])) if probe else None,
        card={"floors": {"random": 0.4}} if card else {},
    )
