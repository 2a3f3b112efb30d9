"""A run's temperature, energy and log, and the pauses in which a hot device cools."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from fieldkit.bundle.atomic import explained
from fieldkit.errors import UsageError
from fieldkit.field.device.description import peak_memory
from fieldkit.field.device.sensors import Meter, Sensors

INTERVAL = 1.0
"""Seconds between two readings of the sensors, and two lines of the log."""
COOLER = 5.0
"""How many degrees a device must cool before it goes on, so that it does not stop and go."""
MAX_TEMP = (20.0, 120.0)


@dataclass(frozen=True)
class Account:
    """What a run took.  joules, hottest (Celsius): None where they cannot be read; power_source: see ``Sensors``.

    seconds, paused: of this process.  peak_memory: bytes, of the whole process so far.
    """

    seconds: float
    paused: float
    joules: float | None
    power_source: str | None
    hottest: float | None
    peak_memory: int

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"seconds": round(self.seconds, 3), "paused": round(self.paused, 3)}


class Watch:
    """Looks after a run: tell it of each step, and let it ``cool`` between two.

    log: a file that gets one JSON object a line: time (UTC), event, step, and what the sensors say.  None keeps none.
    max_temp: Celsius.  tell: called with one sentence for the user.
    Raises UsageError for a temperature out of range, or a log that cannot be written.
    """

    def __init__(
        self,
        *,
        sensors: Sensors | None = None,
        log: Path | None = None,
        max_temp: float | None = None,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_temp is not None and not MAX_TEMP[0] <= max_temp <= MAX_TEMP[1]:
            span = f"{MAX_TEMP[0]:g} to {MAX_TEMP[1]:g} Celsius"
            raise UsageError("no temperature to keep", where="max-temp", found=max_temp, expected=span)
        self._clock = clock
        self._began = self._looked = clock()
        self._meter = Meter(sensors or Sensors(), clock)
        self._max_temp = max_temp
        self._tell = tell
        self._paused = 0.0
        self._log = None if log is None else _opened(log)
        if max_temp is not None and self._meter.hottest is None:
            tell("no sensor tells this device's temperature, so --max-temp does nothing here")

    def note(self, event: str, **values: Any) -> None:
        """Write one line into the log, with a fresh reading of the sensors."""
        reading = self._meter.read()
        if self._log is None:
            return
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": now, "event": event, **values, **vars(reading), "joules": self._meter.joules}
        try:
            self._log.write(json.dumps(line).encode() + b"\n")
        except OSError as error:
            self._tell(f"the log ends here: {error.strerror}")
            self.close()

    def step(self, step: int, loss: float) -> None:
        """A step was made; read and log at most once in ``INTERVAL`` seconds."""
        if self._clock() - self._looked >= INTERVAL:
            self._looked = self._clock()
            self.note("step", step=step, loss=loss)

    def cool(self, stop: threading.Event, before: Callable[[], object]) -> None:
        """If the device is hotter than allowed, call ``before``, and wait until it has cooled, or is asked to stop."""
        hot = self._meter.reading.celsius
        if self._max_temp is None or hot is None or hot <= self._max_temp:
            return
        until = self._max_temp - COOLER
        self._tell(f"{hot:.0f} Celsius are more than {self._max_temp:g}: paused until it is {until:g}")
        before()
        begin = self._clock()
        self.note("paused")
        while not stop.wait(INTERVAL):
            now = self._meter.read().celsius
            if now is None or now <= until:
                break
        self._paused += self._clock() - begin
        self.note("resumed")
        self._tell(f"going on after {self._clock() - begin:.0f} s")

    def account(self) -> Account:
        """What the run took so far."""
        self._meter.read()
        return Account(
            self._clock() - self._began,
            self._paused,
            self._meter.joules,
            self._meter.sensors.source,
            self._meter.hottest,
            peak_memory(),
        )

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()
            self._log = None


def _opened(path: Path) -> IO[bytes]:
    try:
        # Unbuffered: each line is in the file when it was written, or known not to be.
        return path.open("ab", buffering=0)
    except OSError as error:
        raise explained(error, path) from error
