"""``--method auto``: each rule, and its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from fieldkit.hq.distil import METHODS
from fieldkit.hq.distil.choice import Situation, choose

pytestmark = pytest.mark.hq

USUAL = Situation(
    images=50_000,
    distilled=100,
    values=784,
    classes=10,
    fixed=False,
    regularised=False,
    seconds=None,
    pass_seconds=1e-4,
)


@pytest.mark.parametrize(
    ("situation", "name", "reason"),
    [
        (USUAL, "ridge", "best scores"),
        (replace(USUAL, beside=True, classes=1000, seconds=1.0), "beside", "earlier"),
        (replace(USUAL, fixed=True), "ridge", "best scores"),
        (replace(USUAL, fixed=True, distilled=10), "unrolled", "every step"),
        (replace(USUAL, regularised=True), "distribution", "regularised"),
        (replace(USUAL, classes=1000, distilled=1000), "patches", "1,000 classes"),
        (replace(USUAL, values=3 * 512 * 512), "patches", "too much"),
        (replace(USUAL, images=150), "herding", "150 real images"),
        # An iteration takes (512 + 300 + 300) / 10,000 seconds.
        (replace(USUAL, seconds=10.0), "distribution", "about 89 iterations"),
        (replace(USUAL, seconds=20.0), "ridge", "best scores"),
        (replace(USUAL, seconds=10.0, learned=True), "ridge", "best scores"),
        (replace(USUAL, images=150, moved=True), "ridge", "best scores"),
        (replace(USUAL, regularised=True, learned=True), "bptt", "regularised"),
        (replace(USUAL, classes=1000, moved=True), "inversion", "1,000 classes"),
        (replace(USUAL, classes=1000, learned=True), "trajectory", "1,000 classes"),
    ],
)
def test_the_choice_follows_the_situation(situation: Situation, name: str, reason: str) -> None:
    chosen, why = choose(situation)
    assert chosen == name
    assert name in METHODS
    assert reason in why
