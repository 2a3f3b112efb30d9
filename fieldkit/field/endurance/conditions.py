"""Under which conditions a training runs: what it may take, and what it survives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fieldkit.field.device.sensors import Sensors
from fieldkit.field.trust.admission import Sealer

EVERY = 10.0
"""Seconds between two saved states."""


def silent(message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Conditions:
    """Under which a training runs.

    threads: None takes every processor; a resumed training keeps the number it had.
    minutes: how long it may take from the mission's start to its end; it then makes fewer steps than its schedule has,
    which is squeezed, but never more: a schedule that is stretched is another training, and no better one.
    max_memory: bytes that the process may hold at the most.
    max_temp: Celsius above which the training pauses until the device has cooled.
    every: seconds between two saved states.  fresh: give up a state that is there, and begin anew.
    log: file that gets a JSON line for each second: steps, loss, temperature, power.
    sealer: closes the states of a training on an encrypted bundle.
    tell: called with one sentence whenever the user should know: a resumed state, a disk that is full, a pause.
    sensors: None takes this device's.
    """

    threads: int | None = None
    minutes: float | None = None
    max_memory: int | None = None
    max_temp: float | None = None
    every: float = EVERY
    fresh: bool = False
    log: Path | None = None
    sealer: Sealer | None = None
    tell: Callable[[str], None] = silent
    sensors: Sensors | None = None
