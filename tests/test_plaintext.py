"""Nothing of an encrypted bundle's images reaches the disk, not even when a training is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import device
import handmade
import numpy as np
import pytest

from fieldkit.bundle import write_bundle
from fieldkit.bundle.contents import Bundle
from fieldkit.bundle.encryption import CLOSED, encrypt
from fieldkit.bundle.keys import PrivateKey
from fieldkit.bundle.seal import sign

SHAPE = (1, 16, 16)
RUN = 8
"""So many pixels in a row, in whatever form, are a find; noise has such a run by chance once in 2^64 places."""
OWN = PrivateKey.generate("own")


def marked() -> Bundle:
    """A bundle whose distilled images are noise, which no compression changes, and whose training takes long."""
    made = handmade.bundle(handmade.recipe(shape=SHAPE, steps=10**6, rate=1e-4), shape=SHAPE, probe=0)
    codes = np.random.default_rng(7).integers(0, 256, made.images.codes.shape, np.uint8)
    return replace(made, images=replace(made.images, codes=codes))


BUNDLE = marked()


def needles() -> Iterator[bytes]:
    """Runs of the images' pixels, in every form in which fieldkit holds them in memory."""
    decoded = BUNDLE.images.decode()
    mean, std = BUNDLE.manifest.radiometry.mean[0], BUNDLE.manifest.radiometry.std[0]
    for image in (BUNDLE.images.codes, decoded, ((decoded - mean) / std).astype(np.float32)):
        for dtype in (image.dtype, np.dtype(np.float16), np.dtype(np.float64)):
            row = image.astype(dtype).reshape(-1)
            yield from (row[start : start + RUN].tobytes() for start in range(0, row.size, RUN))


def finds(*folders: Path) -> list[str]:
    """The files below these folders that hold any of the needles."""
    wanted = set(needles())
    found = []
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if any(needle in content for needle in wanted):
            found.append(path.name)
    return sorted(found)


class Device:
    """A device with its own home, config, temporary and working folders."""

    def __init__(self, root: Path) -> None:
        self.work, self.temporary, self.config = root / "work", root / "tmp", root / "config"
        for folder in (self.work, self.temporary, self.config):
            folder.mkdir()
        places = {"HOME": root, "TMPDIR": self.temporary, "XDG_CONFIG_HOME": self.config}
        self.environment = os.environ | {name: str(path) for name, path in places.items()}
        self.root = root

    def start(self, line: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "error", "-m", "fieldkit", *line.split()]
        return subprocess.Popen(
            command, cwd=self.work, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def run(self, line: str) -> None:
        done = self.start(line)
        _, complaint = done.communicate(timeout=120)
        assert done.returncode == 0, complaint.decode()

    def killed_training(self, line: str) -> list[Path]:
        """Train until the state was saved twice, kill the process in the middle, and return what it left."""
        training = self.start(line)
        try:
            for _ in range(1200):
                states = [path for path in self.work.glob(".*.state/*") if path.stat().st_size]
                if len(states) >= 2 or training.poll() is not None:
                    break
                time.sleep(0.1)
        finally:
            training.send_signal(signal.SIGKILL)
            _, complaint = training.communicate()
        assert training.returncode == -signal.SIGKILL, complaint.decode()
        assert len(states) >= 2
        return states


@pytest.fixture
def there(tmp_path: Path) -> Device:
    """A device that trusts HQ, has a key of its own, and got a bundle encrypted for that."""
    made = Device(tmp_path)
    device.write_public(made.work, device.HQ)
    device.write_private(made.work, OWN)
    made.run("trust add hq.pub")
    made.run("trust device own.key")
    sealed = sign(encrypt(write_bundle(BUNDLE), [OWN.public()], "memory"), device.HQ, "memory")
    (made.work / "b.sealed").write_bytes(sealed)
    return made


def test_a_killed_training_leaves_nothing_to_see(there: Device) -> None:
    states = there.killed_training("train b.sealed -o m.onnx --save-every 0.1")
    assert all(path.read_bytes().startswith(CLOSED) for path in states)
    assert finds(there.root) == []
    assert list(there.temporary.iterdir()) == []


def test_the_same_training_on_a_plain_bundle_would_be_seen(there: Device) -> None:
    """The scan finds the image in a file that holds it, and states that are not closed are there to be read."""
    (there.work / "plain.h5").write_bytes(write_bundle(BUNDLE))
    states = there.killed_training("train plain.h5 -o m.onnx --save-every 0.1 --allow-unsigned")
    assert not any(path.read_bytes().startswith(CLOSED) for path in states)
    assert finds(there.root) == ["plain.h5"]


def test_a_state_that_remembers_the_images(there: Device) -> None:
    """``learn`` keeps the distilled set: in sight for a plain bundle, closed for an encrypted one."""
    there.run("learn closed.state --bundle b.sealed --steps 5")
    assert finds(there.root) == []
    there.run("learn closed.state --report -o m.onnx")
    assert finds(there.root) == []
    (there.work / "plain.h5").write_bytes(write_bundle(replace(BUNDLE, serial=1)))
    there.run("learn open.state --bundle plain.h5 --steps 5 --allow-unsigned")
    assert finds(there.root) == ["open.state", "plain.h5"]


def test_every_other_command_leaves_nothing_to_see(there: Device) -> None:
    own = handmade.images(12, SHAPE, seed=5)
    np.savez(there.work / "own.npz", x_train=own.images[:, 0], y_train=own.targets, classes=BUNDLE.manifest.classes)
    there.run("train b.sealed -o m.onnx --steps 5")
    there.run("adapt m.onnx b.sealed --data own.npz --steps 5 -o a.onnx")
    there.run("export m.onnx --bundle b.sealed --fp16 --max-drop 100 -o small.onnx")
    there.run("bench b.sealed --seconds 0.2")
    there.run("inspect b.sealed")
    there.run("verify b.sealed")
    assert {"a.onnx", "small.onnx"} <= {path.name for path in there.work.iterdir()}
    assert finds(there.root) == []


def test_decrypting_to_a_file_is_seen(there: Device) -> None:
    there.run("decrypt b.sealed -o out.h5")
    assert finds(there.root) == ["out.h5"]
