"""HQ's sources: the words there are, and everything that stands at a path."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from fieldkit.errors import INSTALL_HQ, UsageError
from fieldkit.hq.sources import SOURCES, load

DATA = Path(os.environ.get("FIELDKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.mark.hq
def test_digits() -> None:
    pytest.importorskip("sklearn")
    first, second = load("digits"), load("digits")
    assert first.test is not None
    assert first.train.images.shape == (1442, 1, 8, 8)
    assert first.test.images.shape == (355, 1, 8, 8)
    assert first.train.images.dtype == np.uint8
    assert first.train.images.max() == 16
    assert first.train.images.tobytes() == second.train.images.tobytes()
    shares = np.bincount(first.test.targets) / (np.bincount(first.train.targets) + np.bincount(first.test.targets))
    assert np.abs(shares - 0.2).max() < 0.01
    assert first.classes == tuple("0123456789")


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UsageError, match=re.escape(INSTALL_HQ)):
        load("digits")


def test_a_path_is_read_and_a_wrong_word_lists_the_words(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 3, 3), np.uint8), y_train=[0, 1])
    assert load(tmp_path / "a.npz").classes == ("0", "1")
    with pytest.raises(UsageError, match=f"one of: {', '.join(sorted(SOURCES))}"):
        load("letters")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("mnist.h5", (60000, 1, 28, 28), 10000),
        ("landsat.h5", (4435, 4, 3, 3), 2000),
        ("mstar.h5", (2747, 1, 64, 64), 2425),
        ("aid10", (2863, 3, 64, 64), 716),
    ],
)
def test_real_data(name: str, train: tuple[int, ...], test: int) -> None:
    if not (DATA / name).exists():
        pytest.skip("no real data: set FIELDKIT_DATA")
    found = load(DATA / name)
    assert found.train.images.shape == train
    assert found.test is not None
    assert len(found.test) == test
