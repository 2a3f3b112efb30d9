"""Temperature and power of the device, as far as Linux tells them.

Read are files of sysfs alone: thermal zones and hwmon chips; Jetson's INA3221 power monitors, batteries, and the energy
counters of Intel's and AMD's processors (RAPL).  What is not there, or not for this user, is left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
PLAUSIBLE = (-40.0, 150.0)
"""Celsius: zones that are switched off report values far outside."""
TOTAL_RAILS = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "SYS5V")
"""What Jetsons call the supply of the whole board; their other channels are parts of it."""
_MONITORS = ("ina3221", "ina226", "ina238", "ina219")


@dataclass(frozen=True)
class Reading:
    """celsius: of the hottest sensor.  watts: at this moment.  Each None where it cannot be read."""

    celsius: float | None = None
    watts: float | None = None


class Sensors:
    """The sensors of this device.

    root: where ``sys`` is; another than "/" for tests.
    source: what power is read from: "board" (all that the device takes), "battery", "processor" (the processor package
    alone), or None.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._class = root / "sys" / "class"
        self._temperatures = list(self._find_temperatures())
        self._energy = Energy(self._class / "powercap")
        self.source: str | None = None
        self._watts: Callable[[], float | None] = self._energy.watts
        if _board_watts(self._class) is not None:
            self.source, self._watts = "board", lambda: _board_watts(self._class)
        elif any(self._class.glob("power_supply/BAT*")):
            self.source, self._watts = "battery", lambda: _battery_watts(self._class)
        elif self._energy.domains:
            self.source = "processor"

    def read(self) -> Reading:
        """Temperature and power now."""
        celsius = [each for each in map(_number, self._temperatures) if each is not None]
        plausible = [each / 1000 for each in celsius if PLAUSIBLE[0] <= each / 1000 <= PLAUSIBLE[1]]
        return Reading(max(plausible, default=None), self._watts())

    def _find_temperatures(self) -> Iterator[Path]:
        zones = sorted(self._class.glob("thermal/thermal_zone*/temp"))
        yield from zones or sorted(self._class.glob("hwmon/hwmon*/temp*_input"))


class Energy:
    """The processor's energy counters, one for each package, in microjoules; they wrap around."""

    def __init__(self, powercap: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # A package is intel-rapl:0; intel-rapl:0:1 is a part of it.
        found = sorted(each for each in powercap.glob("*-rapl:*") if each.name.count(":") == 1)
        self.domains = [each for each in found if _number(each / "energy_uj") is not None]
        self._last: tuple[float, list[float]] | None = None

    def watts(self) -> float | None:
        """Mean power since the last call; None at the first, or where there are no counters."""
        values = [_number(each / "energy_uj") for each in self.domains]
        if not values or any(each is None for each in values):
            return None
        now, counts = self._clock(), [each for each in values if each is not None]
        last, self._last = self._last, (now, counts)
        if last is None or now <= last[0]:
            return None
        used = 0.0
        for domain, before, after in zip(self.domains, last[1], counts, strict=True):
            wrap = _number(domain / "max_energy_range_uj") or 0.0
            used += after - before if after >= before else after - before + wrap
        return used / 1e6 / (now - last[0])


class Meter:
    """Adds up what the sensors say over a run.

    joules: energy since the meter was made; None where no power is read.  hottest: Celsius; None where none is read.
    """

    def __init__(self, sensors: Sensors, clock: Callable[[], float] = time.monotonic) -> None:
        self.sensors = sensors
        self.hottest: float | None = None
        self.joules: float | None = None
        self._clock = clock
        self._at = clock()
        self._watts: float | None = None
        self.reading = Reading()
        """The last one."""
        self.read()

    def read(self) -> Reading:
        """What the sensors say now; the power between two readings is taken as the mean of both."""
        reading, now = self.sensors.read(), self._clock()
        if reading.watts is not None:
            before = reading.watts if self._watts is None else self._watts
            mean = reading.watts if self.sensors.source == "processor" else (before + reading.watts) / 2
            self.joules = (self.joules or 0.0) + mean * (now - self._at)
        self._watts, self._at, self.reading = reading.watts, now, reading
        if reading.celsius is not None:
            self.hottest = reading.celsius if self.hottest is None else max(self.hottest, reading.celsius)
        return reading


def _board_watts(folder: Path) -> float | None:
    """What a board's power monitors measure, the supply of the whole where it has a channel of its own."""
    rails: dict[str, float] = {}
    for chip in sorted(folder.glob("hwmon/hwmon*")):
        if _text(chip / "name") not in _MONITORS:
            continue
        for channel in _channels(chip):
            watts = _channel_watts(chip, channel)
            label = _text(chip / f"in{channel}_label") or f"{chip.name}:{channel}"
            if watts is not None:
                rails[label] = watts
    for name in TOTAL_RAILS:
        if name in rails:
            return rails[name]
    return sum(rails.values()) if rails else None


def _channels(chip: Path) -> list[str]:
    names = [each.name for pattern in ("power*_input", "curr*_input") for each in chip.glob(pattern)]
    return sorted({re.sub(r"\D", "", name) for name in names})


def _channel_watts(chip: Path, channel: str) -> float | None:
    power = _number(chip / f"power{channel}_input")
    if power is not None:
        return power / 1e6
    millivolts, milliamperes = _number(chip / f"in{channel}_input"), _number(chip / f"curr{channel}_input")
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


def _battery_watts(folder: Path) -> float | None:
    """What the batteries give; None while they are charged or idle, since that says nothing of the device."""
    found: list[float] = []
    for battery in sorted(folder.glob("power_supply/BAT*")):
        if _text(battery / "status") != "Discharging":
            continue
        power = _number(battery / "power_now")
        current, voltage = _number(battery / "current_now"), _number(battery / "voltage_now")
        if power is not None:
            found.append(abs(power) / 1e6)
        elif current is not None and voltage is not None:
            found.append(abs(current) * voltage / 1e12)
    return sum(found) if found else None


def _number(path: Path) -> float | None:
    """The number in a file; None where there is none, or it may not be read."""
    text = _text(path)
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
