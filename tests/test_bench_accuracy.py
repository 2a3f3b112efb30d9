"""The parts of tools/bench_accuracy.py that need no training."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.hq

TOOL = Path(__file__).resolve().parent.parent / "tools" / "bench_accuracy.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_accuracy", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOL.parent)
        spec.loader.exec_module(module)
    return module


@given(limit=st.integers(1, 50), most=st.integers(1, 40))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_largest_that_fits_is_what_a_scan_finds(bench: ModuleType, limit: int, most: int) -> None:
    expected = max(count for count in range(1, most + 1) if count <= limit)
    assert bench.largest(lambda count: count <= limit, most) == expected


def test_one_image_is_the_least(bench: ModuleType) -> None:
    assert bench.largest(lambda count: False, 10) == 1


def test_published_figures_stand_beside_what_they_compare_with(bench: ModuleType) -> None:
    assert bench.published("mnist", 10, "random, equal count") == "95.1"
    assert bench.published("mnist", 10, "random, equal bytes") == ""
    assert "RCIG 98.9" in bench.published("mnist", 10, "distilled")
    assert bench.published("mnist", 10, "whole set (5 epochs of 54,000 images)") == "99.6"
    assert bench.published("own", 10, "distilled") == ""


def test_every_published_figure_is_cited(bench: ModuleType) -> None:
    for figures in sys.modules["published"].PUBLISHED.values():
        assert figures.keys() == {bench.DISTILLED, bench.WHOLE, *bench.FLOORS}
        assert figures[bench.DISTILLED].keys() <= bench.PAPERS.keys()


def test_a_seed_shuffles_every_class_on_its_own(bench: ModuleType) -> None:
    groups = [np.arange(5), np.arange(5, 12)]
    first, again, other = (bench.shuffled(groups, seed) for seed in (0, 0, 1))
    assert first.shape == (2, 5)
    assert sorted(first[0]) == list(range(5))
    assert set(first[1]) <= set(range(5, 12))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            {"iterations": 9, "seconds": 90.0, "hardware": "one slow core"},
            "random, 9 iterations, 2 min on one slow core",
        ),
        ({"iterations": 9}, "random, 9 iterations"),
        ({}, "random, ? iterations"),
    ],
)
def test_how_a_set_was_made_is_what_its_card_says(bench: ModuleType, told: dict[str, object], words: str) -> None:
    assert bench.distilled_in(replace(tiny.bundle(), card={"distillation": told})) == words


def test_data_that_is_not_there_is_named(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "DATA", tmp_path)
    manifest = replace(tiny.manifest(), provenance={"data": {"name": "bars"}})
    bundle = replace(tiny.bundle(), manifest=manifest)
    with pytest.raises(SystemExit, match="no data set bars"):
        bench.found_data(bundle)
    (tmp_path / "bars").mkdir()
    assert bench.found_data(bundle) == str(tmp_path / "bars")
    digits = replace(manifest, provenance={"data": {"name": "digits"}})
    assert bench.found_data(replace(bundle, manifest=digits)) == "digits"
