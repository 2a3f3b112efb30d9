"""One training, and what makes it the same training when it is started again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fieldkit.bundle import documents
from fieldkit.bundle.recipe import Initial, Recipe, Schedule
from fieldkit.bundle.samples import Samples
from fieldkit.field.engine.providers import chosen_provider
from fieldkit.field.engine.session import runtime_version
from fieldkit.field.engine.training import Feeding, TrainingState

_SHOWN = 30


@dataclass(frozen=True)
class Job:
    """One training, and all that decides its result.

    schedule, initial: None takes the recipe's.
    feeding: as in ``Trainer.run``.  Whatever it knows that is in no other field must be in ``about``.
    about: JSON that belongs to the job's identity: digests of what it comes from, options.  A state is resumed by a job
    that has the same program, samples, first weights, seed, schedule, provider, version of onnxruntime and ``about``.
    """

    recipe: Recipe
    samples: Samples
    scope: str = "full"
    seed: int = 0
    schedule: Schedule | None = None
    initial: Initial | None = None
    feeding: Feeding | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, start: TrainingState, **conditions: Any) -> dict[str, Any]:
        """The job as JSON: all that decides the bits of its result, but for the number of threads.

        start: the state before the first step.  conditions: what else decides, such as a budget in time.
        """
        digest = hashlib.sha256()
        for name, values in start.tensors.items():
            digest.update(f"{name} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        return documents.decode(
            documents.encode(
                {
                    "recipe": self.recipe.name,
                    "scope": self.scope,
                    "program": hashlib.sha256(self.recipe.programs[f"train/{self.scope}"]).hexdigest(),
                    "samples": self.samples.digest(),
                    "start": digest.hexdigest(),
                    "seed": self.seed,
                    "schedule": (self.schedule or self.recipe.schedule).to_json(),
                    "provider": chosen_provider(),
                    "onnxruntime": runtime_version(),
                    **conditions,
                    **self.about,
                }
            ),
            "job",
        )


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """In what two identities differ, in words: the values of ``one`` where they are short."""
    if not one:
        return "it cannot be read"
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    shown = {name: one[name] for name in names if isinstance(one.get(name), int | str)}
    short = [f"{name} {value}" for name, value in shown.items() if len(str(value)) < _SHOWN]
    return ", ".join(short or names)
