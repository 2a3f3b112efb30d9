"""Fixtures that several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import handmade
import hypothesis
import pytest

from fieldkit.bundle.writer import save_bundle

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("fieldkit", deadline=None)
hypothesis.settings.load_profile("fieldkit")


@pytest.fixture(scope="session", autouse=True)
def _no_trust_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests may trust whom they like."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        yield


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run ``python -m fieldkit`` with these arguments in a folder of its own, as a user would."""

    def fieldkit(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "fieldkit", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return fieldkit


@pytest.fixture(scope="session")
def bundle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle with two recipes and a probe.  Read only."""
    path = tmp_path_factory.mktemp("bundle") / "tiny.h5"
    save_bundle(handmade.bundle(handmade.recipe(), handmade.recipe("brief", steps=3)), path)
    return path
