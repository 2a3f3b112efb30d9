"""Kills trainings again and again, and checks that nothing of them is ever lost, torn or changed.

    python tools/torture_power.py [train] [adapt] [--kills 100] [--bundle bundles/mnist-1.h5] [--steps 300] [--seed 0]

Each command first runs once in peace.  Then it is started, killed with SIGKILL at a random moment (every other time in
the middle of a save, as far as that can be hit), looked after, and started again, until there were so many kills; what
was finished meanwhile is removed, so that the next start begins anew.  After each kill

* the model is not there, or whole: the same bytes as in peace;
* each state in the state's folder is whole, unless it is a temporary file, and nothing lies anywhere else;
* the next start goes on from the newest state, and what comes out in the end has the same bytes.

States are saved without a pause between them, so that kills hit saves.  SIGKILL ends a process, not the machine: that
bytes reach the disk in order is the business of fsync, which each save calls before and after its rename.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fieldkit.bundle.reader import read_bundle
from fieldkit.field.endurance.checkpoint import RESULT, Snapshot, state_folder

ROOT = Path(__file__).resolve().parent.parent
POLL = 0.0005
OWN_SAMPLES = 60


@dataclass
class Tally:
    """What happened: kills, kills in a save, resumptions, trainings that ended, and everything that was wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """A command that is tortured.  peace: seconds of the run in peace.  expected: its output's bytes."""

    command: list[str]
    folder: Path
    output: Path
    peace: float
    expected: bytes

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.folder)


def prepared(name: str, folder: Path, settings: argparse.Namespace) -> Subject:
    """The command ``name`` after a run in peace."""
    bundle = folder / "bundle.h5"
    shutil.copy(settings.bundle, bundle)
    tail = ["--steps", str(settings.steps), "--threads", "1", "--quiet"]
    fieldkit = [sys.executable, "-m", "fieldkit"]
    command = [*fieldkit, "train", str(bundle), "-o", "out.onnx", *tail]
    if name == "adapt":
        model = folder / "model.onnx"
        subprocess.run([*fieldkit, "train", str(bundle), "-o", str(model), "--quiet"], check=True, capture_output=True)
        samples = read_bundle(bundle).probe
        if samples is None:
            sys.exit("adapt needs a bundle with a probe, whose images play the device's own samples")
        few = samples.take(slice(OWN_SAMPLES))
        np.savez(folder / "own.npz", x_train=few.images.transpose(0, 2, 3, 1), y_train=few.targets)
        command = [*fieldkit, "adapt", str(model), str(bundle), "--data", "own.npz", "-o", "out.onnx", *tail]
    began = time.monotonic()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    peace, output = time.monotonic() - began, folder / "out.onnx"
    expected = output.read_bytes()
    output.unlink()
    return Subject([*command, "--save-every", "0"], folder, output, peace, expected)


def round_of(subject: Subject, chance: random.Random, tally: Tally, in_a_save: bool) -> None:
    """Start the command once, kill it, and look what is left."""
    before = {path.name for path in subject.folder.iterdir()}
    state = state_folder(subject.output)
    # What an earlier kill left may still lie there, if this start is killed before it looks.
    left = set(_being_written(state))
    process = subject.start()
    moment = time.monotonic() + chance.uniform(0.0, 1.5 * subject.peace)
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(POLL)
    if in_a_save:
        while process.poll() is None and not set(_being_written(state)) - left:
            time.sleep(POLL / 10)
    process.send_signal(signal.SIGKILL)
    _, complaint = process.communicate()
    told = complaint.decode("utf-8", "replace")
    tally.counts["resumed"] += bool(re.search(r"going on from step [1-9]", told))
    tally.counts["damaged states"] += "left out" in told
    if process.returncode == -signal.SIGKILL:
        tally.counts["kills"] += 1
        tally.counts["kills in a save"] += bool(set(_being_written(state)) - left)
    elif process.returncode == 0:
        tally.counts["ended"] += 1
    else:
        tally.faults.append(f"exit code {process.returncode}: {told.strip()}")
    _inspect(subject, before, tally, ended=process.returncode == 0)


def _inspect(subject: Subject, before: set[str], tally: Tally, ended: bool) -> None:
    state = state_folder(subject.output)
    allowed = before | {subject.output.name, state.name}
    strange = sorted(path.name for path in subject.folder.iterdir() if path.name not in allowed)
    tally.faults += [f"left beside the model: {name}" for name in strange]
    for path in state.iterdir() if state.is_dir() else ():
        if not path.name.endswith(".part") and path.name != RESULT:
            try:
                Snapshot.decode(path.read_bytes(), path)
            except Exception as error:
                tally.faults.append(f"a torn state: {error}")
    if subject.output.exists():
        if subject.output.read_bytes() != subject.expected:
            tally.faults.append("another model than in peace")
        tally.counts["same model"] += 1
        subject.output.unlink()
    elif ended:
        tally.faults.append("ended without a model")
    if ended and state.exists():
        tally.faults.append("ended, and the state is still there")


def _being_written(state: Path) -> list[Path]:
    return list(state.glob("*.part")) if state.is_dir() else []


def torture(name: str, settings: argparse.Namespace) -> bool:
    """Torture one command; whether nothing was wrong."""
    chance, tally = random.Random(settings.seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        subject = prepared(name, Path(folder), settings)
        while tally.counts["kills"] < settings.kills and len(tally.faults) < 10:
            round_of(subject, chance, tally, in_a_save=tally.counts["kills"] % 2 == 1)
        last = subprocess.run(subject.command, cwd=folder, capture_output=True, check=False)
        tally.counts["resumed"] += b"going on from step" in last.stderr
        _inspect(subject, {path.name for path in Path(folder).iterdir()}, tally, ended=last.returncode == 0)
        shown = ", ".join(f"{count} {what}" for what, count in sorted(tally.counts.items()))
        print(f"{name}: {settings.steps} steps, {subject.peace:.1f} s in peace; {shown}; {len(tally.faults)} faults")
    for fault in tally.faults:
        print(f"  {fault}")
    return not tally.faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help="train, adapt; both by default")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--bundle", type=Path, default=ROOT / "bundles" / "mnist-1.h5")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    unknown = set(settings.commands) - {"train", "adapt"}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    sound = [torture(name, settings) for name in settings.commands or ["train", "adapt"]]
    sys.exit(0 if all(sound) else 1)


if __name__ == "__main__":
    main()
