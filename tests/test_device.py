"""What a device tells of itself, from made-up trees of sysfs and procfs; pauses in heat; energy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldkit.errors import UsageError
from fieldkit.field.device import description
from fieldkit.field.device.sensors import Energy, Meter, Reading, Sensors
from fieldkit.field.endurance import monitor
from fieldkit.field.endurance.monitor import Watch
from fieldkit.field.engine.providers import available_providers, chosen_provider, use_provider


def tree(root: Path, files: Mapping[str, object]) -> Path:
    """Files with these contents under ``root``."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


JETSON = {
    "sys/class/thermal/thermal_zone0/temp": 48500,
    "sys/class/thermal/thermal_zone1/temp": 51250,
    # A part that is switched off.
    "sys/class/thermal/thermal_zone2/temp": -256000,
    "sys/class/hwmon/hwmon3/name": "ina3221",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon3/in1_input": 5000,
    "sys/class/hwmon/hwmon3/curr1_input": 1500,
    "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon3/in2_input": 5000,
    "sys/class/hwmon/hwmon3/curr2_input": 400,
    "sys/class/hwmon/hwmon0/name": "pwmfan",
    "var/lib/nvpmodel/status": "pmode:0002",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_15W >",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes fphp asimdhp asimddp\nCPU part\t: 0xd42\n",
    "proc/meminfo": "MemTotal:   7800000 kB\nMemFree:  100 kB\nMemAvailable:    5000000 kB\nHugePages_Total:   0\n",
}
LAPTOP = {
    "sys/class/thermal/thermal_zone0/temp": 61000,
    "sys/class/power_supply/BAT0/status": "Discharging",
    "sys/class/power_supply/BAT0/power_now": 12_300_000,
    "sys/class/power_supply/BAT1/status": "Discharging",
    "sys/class/power_supply/BAT1/current_now": 1_000_000,
    "sys/class/power_supply/BAT1/voltage_now": 11_000_000,
    "proc/cpuinfo": "model name\t: Some Processor @ 2 GHz\nflags\t\t: fpu sse4_2 avx avx2 fma avx512_vnni\n",
}


def test_a_jetson_is_read(tmp_path: Path) -> None:
    found = description.examine(tmp_path, tree(tmp_path, JETSON))
    assert found.processor == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found.instruction_sets == ("asimd", "asimdhp", "asimddp", "fphp")
    assert found.reading == Reading(51.25, 7.5)
    assert (found.power_source, found.power_mode, found.governor) == ("board", "MODE_15W", "schedutil")
    assert (found.memory, found.memory_free) == (7_800_000 << 10, 5_000_000 << 10)
    assert json.loads(json.dumps(found.to_json()))["reading"] == {"celsius": 51.25, "watts": 7.5}


def test_a_laptop_is_read(tmp_path: Path) -> None:
    found = description.examine(tmp_path, tree(tmp_path, LAPTOP))
    assert found.processor == "Some Processor @ 2 GHz"
    assert found.instruction_sets == ("sse4_2", "avx", "avx2", "fma", "avx512_vnni")
    assert found.reading.watts == pytest.approx(12.3 + 11.0)
    assert (found.power_source, found.power_mode) == ("battery", None)


def test_a_battery_that_is_charged_says_nothing_of_the_device(tmp_path: Path) -> None:
    tree(tmp_path, LAPTOP | {"sys/class/power_supply/BAT0/status": "Charging"})
    assert Sensors(tmp_path).read().watts == pytest.approx(11.0)
    tree(tmp_path, {"sys/class/power_supply/BAT1/status": "Not charging"})
    assert Sensors(tmp_path).read().watts is None


def test_where_nothing_is_read_nothing_is_told(tmp_path: Path) -> None:
    found = description.examine(tmp_path / "none", tmp_path)
    assert found.reading == Reading(None, None)
    assert (found.memory, found.disk_free, found.governor, found.power_source) == (None, None, None, None)
    assert found.processor == found.architecture
    tree(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "not a number"})
    assert Sensors(tmp_path).read() == Reading()


def test_without_zones_the_chips_tell(tmp_path: Path) -> None:
    tree(tmp_path, {"sys/class/hwmon/hwmon1/temp1_input": 40000, "sys/class/hwmon/hwmon1/temp2_input": 43000})
    assert Sensors(tmp_path).read().celsius == 43.0


def test_parts_of_a_board_add_up_where_nothing_measures_the_whole(tmp_path: Path) -> None:
    files = {
        "sys/class/hwmon/hwmon0/name": "ina226",
        "sys/class/hwmon/hwmon0/power1_input": 2_000_000,
        "sys/class/hwmon/hwmon1/name": "ina226",
        "sys/class/hwmon/hwmon1/power1_input": 3_000_000,
    }
    assert Sensors(tree(tmp_path, files)).read().watts == 5.0


def test_the_memory_of_a_group_of_processes_counts(tmp_path: Path) -> None:
    tree(tmp_path, JETSON | {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": 5})
    assert description.free_memory(tmp_path) == 5_000_000 << 10
    tree(tmp_path, {"sys/fs/cgroup/memory.max": 1000, "sys/fs/cgroup/memory.current": 400})
    assert description.free_memory(tmp_path) == 600


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 999_999), min_size=2, max_size=8))
def test_energy_counters_wrap_around(tmp_path_factory: pytest.TempPathFactory, used: list[int]) -> None:
    root, wrap = tmp_path_factory.mktemp("rapl"), 1_000_000
    domain = "sys/class/powercap/intel-rapl:0"
    now = iter(range(1000))
    tree(root, {f"{domain}/energy_uj": 0, f"{domain}/max_energy_range_uj": wrap, f"{domain}:0/energy_uj": 7})
    energy = Energy(root / "sys/class/powercap", lambda: float(next(now)))
    assert [each.name for each in energy.domains] == ["intel-rapl:0"]
    assert energy.watts() is None
    total = 0
    for microjoules in used:
        total += microjoules
        tree(root, {f"{domain}/energy_uj": total % wrap})
        assert energy.watts() == pytest.approx(microjoules / 1e6)


class Scripted(Sensors):
    """Sensors that read from a list; the last entry stays."""

    def __init__(self, readings: list[Reading], source: str = "board") -> None:
        super().__init__(Path("/nowhere"))
        self.readings = readings
        self.source = source

    def read(self) -> Reading:
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]


def test_energy_is_the_integral_of_power_and_the_hottest_is_kept() -> None:
    now = iter([0.0, 0.0, 2.0, 5.0])
    meter = Meter(Scripted([Reading(40, 10), Reading(45, 20), Reading(43, 20)]), lambda: next(now))
    meter.read()
    meter.read()
    assert meter.joules == 2 * 15 + 3 * 20
    assert meter.hottest == 45


def test_a_hot_device_pauses_until_it_has_cooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "INTERVAL", 0.0)
    told: list[str] = []
    saved: list[str] = []
    readings = [Reading(79), Reading(81), Reading(80.5), Reading(77), Reading(75), Reading(74), Reading(60)]
    sensors = Scripted(readings)
    seen = Watch(sensors=sensors, max_temp=80.0, tell=told.append)
    stop = threading.Event()
    seen.cool(stop, lambda: saved.append("at 79"))
    assert (saved, told) == ([], [])
    seen.step(1, 0.5)
    seen.cool(stop, lambda: saved.append("at 81"))
    assert saved == ["at 81"]
    assert told[0] == "81 Celsius are more than 80: paused until it is 75"
    assert told[1].startswith("going on after ")
    # It went on at 75, not at 77.
    assert [each.celsius for each in sensors.readings] in ([60], [74, 60])


def test_a_pause_ends_when_the_user_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "INTERVAL", 0.0)
    stop = threading.Event()
    stop.set()
    seen = Watch(sensors=Scripted([Reading(90)]), max_temp=80.0, tell=lambda text: None)
    seen.cool(stop, lambda: None)


def test_a_device_without_sensors_says_that_it_cannot_keep_cool(tmp_path: Path) -> None:
    told: list[str] = []
    Watch(sensors=Sensors(tmp_path), max_temp=80.0, tell=told.append)
    assert told == ["no sensor tells this device's temperature, so --max-temp does nothing here"]
    with pytest.raises(UsageError, match="max-temp"):
        Watch(max_temp=10.0, tell=told.append)


def test_the_log_has_a_json_line_for_each_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "INTERVAL", 0.0)
    seen = Watch(sensors=Scripted([Reading(50.0, 4.0)]), log=tmp_path / "run.jsonl", tell=print)
    seen.note("begin", steps=2)
    seen.step(1, 0.25)
    account = seen.account()
    seen.close()
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [(each["event"], each["celsius"], each["watts"]) for each in lines] == [
        ("begin", 50.0, 4.0),
        ("step", 50.0, 4.0),
    ]
    assert (lines[1]["step"], lines[1]["loss"]) == (1, 0.25)
    assert (account.hottest, account.power_source) == (50.0, "board")
    assert account.peak_memory > 10 << 20


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_ends_and_is_told_once() -> None:
    told: list[str] = []
    seen = Watch(sensors=Scripted([Reading()]), log=Path("/dev/full"), tell=told.append)
    seen.note("begin")
    seen.note("end")
    assert told == ["the log ends here: No space left on device"]


def test_this_device_is_read() -> None:
    found = description.examine(Path())
    assert found.processor
    assert found.threads >= 1
    assert "cpu" in found.providers
    assert description.peak_memory() >= description.held_memory() // 2 > 0


def test_niceness_is_added() -> None:
    code = "import os\nfrom fieldkit.field.device.description import be_nice\nbe_nice(2)\nprint(os.nice(0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == min(os.nice(0) + 2, 19)
    with pytest.raises(UsageError, match="nice"):
        description.be_nice(20)


def test_a_provider_that_is_not_there_gives_way_to_the_cpu_with_a_reason() -> None:
    assert "cpu" in available_providers()
    assert use_provider("auto") is None
    if "cuda" not in available_providers():
        said = use_provider("cuda")
        assert said is not None
        assert said.startswith("provider cuda: onnxruntime ")
    assert use_provider("cpu") is None
    assert chosen_provider() == "cpu"
    with pytest.raises(UsageError, match="expected cpu or cuda or tensorrt or auto"):
        use_provider("tpu")
