"""What this device is: processor, memory, disk, temperature, power mode, and the versions that matter.

All of it is read from the system's own files; ``root`` is where those are, another than "/" for tests.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldkit import __version__
from fieldkit.errors import UsageError
from fieldkit.field.device.sensors import ROOT, Reading, Sensors
from fieldkit.field.engine.providers import available_providers
from fieldkit.field.engine.session import available_threads, runtime_version

# fmt: off
SETS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2",
)
# fmt: on
"""Instruction sets that decide how fast matrix products are, by the kernel's names."""
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>")


@dataclass(frozen=True)
class Device:
    """What ``fieldkit doctor`` says of a device.  Bytes, Celsius, watts; None or empty where it cannot be read.

    threads: processors that this process may use; processors: those that are switched on.
    memory_free: what a new process could take without swapping, and within the process group's limit.
    governor: how the processor's clock is chosen.  power_mode: a Jetson's, by name.
    """

    processor: str
    architecture: str
    instruction_sets: tuple[str, ...]
    processors: int
    threads: int
    memory: int | None
    memory_free: int | None
    disk_free: int | None
    reading: Reading
    power_source: str | None
    governor: str | None
    power_mode: str | None
    system: str
    python: str
    onnxruntime: str
    providers: tuple[str, ...]
    fieldkit: str = __version__

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {
            "instruction_sets": list(self.instruction_sets),
            "providers": list(self.providers),
            "reading": vars(self.reading),
        }


def examine(folder: Path, root: Path = ROOT) -> Device:
    """This device; the free disk is that of ``folder``."""
    sensors = Sensors(root)
    memory = _memory(root)
    try:
        disk = shutil.disk_usage(folder).free
    except OSError:
        disk = None
    return Device(
        processor=processor(root),
        architecture=platform.machine(),
        instruction_sets=instruction_sets(root),
        processors=os.cpu_count() or 1,
        threads=available_threads(),
        memory=memory.get("MemTotal"),
        memory_free=free_memory(root),
        disk_free=disk,
        reading=sensors.read(),
        power_source=sensors.source,
        governor=_line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        power_mode=_power_mode(root),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        onnxruntime=runtime_version(),
        providers=available_providers(),
    )


def processor(root: Path = ROOT) -> str:
    """The processor's name, or the board's, where the system tells it; else its architecture."""
    named = next(_values(root, "model name"), None)
    return named or _line(root / "proc/device-tree/model") or platform.machine()


def instruction_sets(root: Path = ROOT) -> tuple[str, ...]:
    """Those of ``SETS`` that the processor has."""
    flags = set((next(_values(root, "flags"), None) or next(_values(root, "Features"), "")).split())
    return tuple(each for each in SETS if each in flags)


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that a new process could take: what is available, or what the process's group leaves it if that is less."""
    available = _memory(root).get("MemAvailable")
    limits = [available] if available is not None else []
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, taken = (_line(root / "sys/fs/cgroup" / name) for name in (limit, used))
        if most is not None and most.isdigit() and taken is not None and taken.isdigit():
            limits.append(max(0, int(most) - int(taken)))
    return min(limits, default=None)


def peak_memory() -> int:
    """The most memory that this process has held so far, in bytes.

    Linux counts VmHWM anew for each program; getrusage also counts what the process held before it became this program.
    """
    held = next((line.split()[1] for line in _lines(ROOT / "proc/self/status") if line.startswith("VmHWM:")), None)
    return int(held) << 10 if held else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def held_memory() -> int:
    """The memory that this process holds now, in bytes."""
    held = next((line.split()[1] for line in _lines(ROOT / "proc/self/status") if line.startswith("VmRSS:")), None)
    return int(held) << 10 if held else peak_memory()


def be_nice(amount: int) -> None:
    """Leave the processor to others: add ``amount``, 0 to 19, to this process's niceness.

    Threads that are started later inherit it.  Raises UsageError out of range.
    """
    if not 0 <= amount <= 19:
        raise UsageError("no niceness", where="nice", found=amount, expected="0 to 19")
    os.nice(amount)


def _memory(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    pairs = (line.partition(":") for line in _lines(root / "proc/meminfo"))
    return {name: int(rest.split()[0]) << 10 for name, _, rest in pairs if rest.split() and rest.split()[0].isdigit()}


def _power_mode(root: Path) -> str | None:
    """The name of a Jetson's power mode, from nvpmodel's own files."""
    status = _line(root / "var/lib/nvpmodel/status")
    if status is None:
        return None
    number = status.rpartition(":")[2]
    names = {int(each): name for each, name in _MODE.findall("\n".join(_lines(root / "etc/nvpmodel.conf")))}
    return names.get(int(number), status) if number.isdigit() else status


def _values(root: Path, key: str) -> Iterator[str]:
    """What /proc/cpuinfo says of ``key``, for each processor."""
    for line in _lines(root / "proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() == key:
            yield value.strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _line(path: Path) -> str | None:
    """The first line of a file; a device tree's strings end with a zero."""
    lines = _lines(path)
    return lines[0].strip("\0 ") if lines else None
