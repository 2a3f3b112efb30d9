"""Choosing among recipes: the arithmetic against brute force, the halving on made-up curves, and the whole of it."""

from __future__ import annotations

import io
import itertools
import math
from dataclasses import replace
from pathlib import Path

import handmade
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldkit.bundle.manifest import Expectation
from fieldkit.errors import Diverged, IncompatibleBundle, ResourceError, UsageError
from fieldkit.field.measurement.ranking import NOISE, Cost, Limits, levels, order, pareto, standard_error
from fieldkit.field.selection import chart, selection
from fieldkit.field.selection.candidates import Candidate, none_fits, ranked
from fieldkit.field.selection.contest import OVERHEAD, Plan, fitting
from fieldkit.field.selection.elimination import OutOfTimeError, Score, halve, kept, rungs, survivors
from fieldkit.field.selection.selection import Choice, select

POINTS = st.dictionaries(st.integers(0, 30), st.tuples(*[st.integers(0, 4)] * 3), max_size=12)


def candidate(name: str, accuracy: float | None, latency: float = 0.001, size: int = 1000, **more: object) -> Candidate:
    made = Candidate(name, Cost(size, latency, 1 / latency, 1 << 26), 100, accuracy, steps=100, share=1.0)
    return replace(made, **more)  # type: ignore[arg-type]


@given(POINTS)
def test_the_pareto_set_is_what_brute_force_finds(points: dict[int, tuple[int, int, int]]) -> None:
    expected = set()
    for key, mine in points.items():
        beaten = False
        for other in points.values():
            no_worse = other[0] <= mine[0] and other[1] <= mine[1] and other[2] <= mine[2]
            better = other[0] < mine[0] or other[1] < mine[1] or other[2] < mine[2]
            beaten = beaten or (no_worse and better)
        if not beaten:
            expected.add(key)
    assert pareto(points) == expected


def test_the_standard_error_is_that_of_a_share_and_never_0() -> None:
    draws = np.random.default_rng(0).binomial(200, 0.9, 20_000) / 200
    assert standard_error(0.9, 200) == pytest.approx(draws.std(), rel=0.05)
    assert 0.005 < standard_error(1.0, 200) < 0.01


@given(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=12))
def test_equal_levels_are_near_and_different_ones_apart(latencies: list[float]) -> None:
    costs = {place: Cost(1, latency, 1.0, 1) for place, latency in enumerate(latencies)}
    found = levels(costs, "latency")
    for place, latency in enumerate(latencies):
        assert found[place] <= latency <= found[place] * (1 + NOISE["latency"]) * (1 + 1e-12)
    distinct = sorted(set(found.values()))
    assert all(b > a * (1 + NOISE["latency"]) for a, b in itertools.pairwise(distinct))


@given(st.dictionaries(st.text("abcdef", min_size=1), st.tuples(st.floats(0, 1), st.floats(0.1, 9)), min_size=1))
def test_ties_are_broken_by_latency_and_nothing_else_is(drawn: dict[str, tuple[float, float]]) -> None:
    accuracies = {name: accuracy for name, (accuracy, _) in drawn.items()}
    latencies = {name: latency for name, (_, latency) in drawn.items()}
    found = order(accuracies, latencies, 0.1)
    assert sorted(found) == sorted(drawn)
    tied = {name for name in drawn if accuracies[name] >= max(accuracies.values()) - 0.1}
    assert set(found[: len(tied)]) == tied
    assert latencies[found[0]] == min(latencies[name] for name in tied)
    rest = [accuracies[name] for name in found[len(tied) :]]
    assert rest == sorted(rest, reverse=True)


def test_limits_say_by_how_much_they_are_broken() -> None:
    cost = Cost(size=1500, latency=0.004, rate=1.0, memory=100)
    assert Limits(latency=0.002, size=1000, memory=100).excess(cost) == {"latency": 2.0, "size": 1.5}
    assert Limits().excess(cost) == {}


def test_rungs_are_as_many_as_the_halving_needs() -> None:
    assert [len(rungs(count)) for count in (1, 2, 3, 4, 9, 10)] == [1, 2, 2, 3, 3, 4]
    for count in range(1, 40):
        shares, left = rungs(count), count
        assert shares[-1] == 1.0
        for _ in shares[:-1]:
            left = kept(left)
        assert left == 1


CURVES = {
    # Accuracy at a ninth, a third and all of the steps.
    "slow": (0.50, 0.80, 0.95),
    "quick": (0.70, 0.85, 0.90),
    "near": (0.69, 0.84, 0.89),
    "weak": (0.30, 0.35, 0.40),
    "weaker": (0.20, 0.99, 0.99),
    "broken": (0.60, None, None),
}


def run_curves(names: list[str], margin: float, budget: int = 1000) -> tuple[list[tuple[str, float]], object]:
    calls: list[tuple[str, float]] = []

    def train(name: str, share: float) -> Score | None:
        if len(calls) == budget:
            raise OutOfTimeError
        calls.append((name, round(share, 3)))
        value = CURVES[name][{0.111: 0, 0.333: 1, 1.0: 2}[round(share, 3)]]
        return None if value is None else Score((value,), 1)

    return calls, halve(names, rungs(len(names)), train, lambda accuracy: margin)


def test_the_best_third_goes_on_with_those_that_tie_and_the_best_first() -> None:
    calls, halved = run_curves(list(CURVES), 0.0)
    assert calls[:6] == [(name, 0.111) for name in CURVES]
    # A third of six is two: the best two, best first; then one.
    assert calls[6:] == [("quick", 0.333), ("near", 0.333), ("quick", 1.0)]
    assert halved.reached["slow"].share == pytest.approx(1 / 9)
    assert halved.reached["quick"].score == Score((0.90,), 1)


def test_who_is_within_the_error_of_the_last_that_is_kept_goes_on() -> None:
    calls, halved = run_curves(list(CURVES), 0.2)
    assert [name for name, share in calls if share == 0.333] == ["quick", "near", "broken", "slow"]
    assert halved.reached["broken"].score is None
    assert [name for name, share in calls if share == 1.0] == ["quick", "near", "slow"]


def test_when_time_ends_what_was_measured_counts() -> None:
    calls, halved = run_curves(["slow", "quick", "near", "weak"], 0.0, budget=6)
    assert calls[4:] == [("quick", 0.333), ("near", 0.333)]
    assert halved.alive == ("quick",)
    assert halved.reached["quick"].share == pytest.approx(1 / 3)
    _, nothing = run_curves(["slow", "quick"], 0.0, budget=0)
    assert nothing.reached == {}


@given(st.dictionaries(st.text("abcdef", min_size=1), st.floats(0, 1), min_size=1), st.floats(0, 0.3))
def test_the_best_always_survive(scores: dict[str, float], margin: float) -> None:
    alive = survivors(scores, lambda accuracy: margin)
    assert kept(len(scores)) <= len(alive)
    gone = [scores[name] for name in scores if name not in alive]
    assert max(gone, default=-1.0) < min(scores[name] for name in alive) + 1e-12


def test_a_plan_is_cut_until_it_fits() -> None:
    recipes = [handmade.recipe(name, steps=90) for name in ("a", "b", "c")]
    seconds = {"a": 1.0, "b": 2.0, "c": 3.0}
    plan = Plan(rungs(3), 3)
    # A third of the steps for all, then all of them for the one that takes longest: 30 * 6 + 90 * 3 seconds a seed.
    needed = OVERHEAD * (30 * 6 + 90 * 3)
    assert fitting(plan, recipes, seconds, None) == plan
    assert fitting(plan, recipes, seconds, 3 * needed) == plan
    assert fitting(plan, recipes, seconds, 2.9 * needed).seeds == 2
    assert fitting(plan, recipes, seconds, 1.0 * needed) == Plan(plan.shares, 1)
    assert fitting(plan, recipes, seconds, 0.5 * needed).scale == pytest.approx(0.5)
    assert Plan((1.0,), 1, 0.5).steps(recipes[0], 1.0) == 45


def test_a_schedule_that_was_distilled_step_by_step_is_not_shortened() -> None:
    recipe = handmade.recipe(steps=4)
    listed = replace(recipe, schedule=replace(recipe.schedule, kind="listed", rates=(0.4, 0.3, 0.2, 0.1)))
    plan = Plan(rungs(9), 1, 0.5)
    assert [plan.steps(listed, share) for share in plan.shares] == [4, 4, 4]
    assert [plan.steps(recipe, share) for share in plan.shares] == [1, 1, 2]


def test_ranks_compare_only_what_was_trained_alike() -> None:
    early = candidate("early", 0.99, steps=33, share=1 / 3, state="stopped")
    quick, slow = candidate("quick", 0.92, latency=0.001), candidate("slow", 0.93, latency=0.002)
    far, none = candidate("far", 0.5), candidate("none", None, share=0.0, state="diverged")
    placed, error, tied = ranked([none, far, slow, early, quick], 200)
    assert [each.recipe for each in placed] == ["quick", "slow", "far", "early", "none"]
    assert (error, tied) == (standard_error(0.93, 200), ("quick", "slow"))
    assert [each.recipe for each in placed if each.efficient] == ["early"]


def test_the_nearest_is_named_with_what_it_needs() -> None:
    far = candidate("far", None, excess={"latency": 9.0})
    near = candidate("near", None, latency=0.00301, size=2345, excess={"latency": 1.2, "size": 1.5})
    error = none_fits([far, near])
    assert error.exit_code == 5
    assert "far: latency 9.00x of what is allowed; near: latency 1.20x" in str(error)
    assert "the nearest, near, needs --max-latency-ms 3.01 --max-size 2345" in str(error)


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs by the names of recipes, so that what follows from them can be told."""
    costs = {"fast": (0.001, 100), "fine": (0.002, 300), "poor": (0.003, 200)}

    def tried(models: dict[str, bytes], *_: object) -> dict[str, Cost]:
        return {name: Cost(costs[name][1], costs[name][0], 1.0, 1 << 20) for name in models}

    monkeypatch.setattr(selection, "_tried", tried)


def recipes() -> list[object]:
    return [
        handmade.recipe("poor", steps=27, rate=1e-7),
        handmade.recipe("fine", steps=27),
        handmade.recipe("fast", steps=27, rate=0.09),
    ]


@pytest.mark.usefixtures("no_children")
def test_a_selection_trains_the_better_and_takes_the_quicker_of_two_that_tie() -> None:
    notes: list[tuple[int, int]] = []
    bundle = handmade.bundle(*recipes())
    found = select(bundle, Choice(threads=1), lambda phase, note, done, total: notes.append((done, total)))
    assert [each.recipe for each in found.candidates] == ["fast", "fine", "poor"]
    assert found.tied == ("fast", "fine")
    assert [each.state for each in found.candidates] == ["trained", "trained", "stopped"]
    assert [each.steps for each in found.candidates] == [27, 27, 9]
    assert (found.source, found.samples) == ("probe", 30)
    assert found.winner.efficient
    assert all(done <= total for done, total in notes)
    assert found.notes == ()


@pytest.mark.usefixtures("no_children")
def test_the_model_is_the_one_that_train_makes() -> None:
    from fieldkit.field.engine.training import train
    from fieldkit.field.models.confidence import calibrate
    from fieldkit.field.models.exporting import export

    bundle = handmade.bundle(*recipes())
    found = select(bundle, Choice(threads=1, seeds=2))
    expected = calibrate(export(train(bundle, "fast", seed=0, threads=1), bundle), bundle, 1)
    assert found.model == expected


@pytest.mark.usefixtures("no_children")
def test_who_breaks_a_limit_is_not_trained() -> None:
    bundle = handmade.bundle(*recipes())
    found = select(bundle, Choice(Limits(latency=0.0025, size=250), threads=1, eliminate=False))
    assert [(each.recipe, each.state) for each in found.candidates] == [
        ("fast", "trained"),
        ("poor", "excluded"),
        ("fine", "excluded"),
    ]
    assert found.candidates[1].excess == {"latency": pytest.approx(1.2)}
    with pytest.raises(ResourceError, match="the nearest, fast, needs --max-size 100"):
        select(bundle, Choice(Limits(size=90), threads=1))


@pytest.mark.usefixtures("no_children")
def test_without_a_probe_hqs_measurements_decide_or_nothing_does() -> None:
    bare = handmade.bundle(*recipes(), probe=0)
    with pytest.raises(IncompatibleBundle, match="build the bundle with --probe"):
        select(bare, Choice(threads=1))
    held_out = {
        "fine": {"held-out": Expectation(0.95, 0.01, 0.9, 1.0, 5, 400)},
        "fast": {"held-out": Expectation(0.70, 0.01, 0.6, 0.8, 5, 400)},
    }
    known = replace(bare, manifest=replace(bare.manifest, expectations=held_out))
    found = select(known, Choice(threads=1))
    assert [(each.recipe, each.state) for each in found.candidates] == [
        ("fine", "expected"),
        ("fast", "expected"),
        ("poor", "unmeasured"),
    ]
    assert (found.source, found.samples, found.trained.steps) == ("held-out", 400, 27)
    assert "the bundle carries no probe" in found.notes[0]
    fine_alone = replace(known.manifest, expectations={"fine": held_out["fine"]})
    with pytest.raises(IncompatibleBundle, match="that keep the limits"):
        select(replace(known, manifest=fine_alone), Choice(Limits(size=250), threads=1))


@pytest.mark.usefixtures("no_children")
def test_trainings_that_all_diverge_are_an_error_and_one_is_a_row() -> None:
    wild = handmade.recipe("poor", rate=1e38)
    with pytest.raises(Diverged, match="every training diverged"):
        select(handmade.bundle(wild), Choice(threads=1))
    found = select(handmade.bundle(wild, handmade.recipe("fine")), Choice(threads=1))
    assert [(each.recipe, each.state) for each in found.candidates] == [("fine", "trained"), ("poor", "diverged")]


@pytest.mark.usefixtures("no_children")
def test_time_that_ends_before_a_training_does_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "rehearse", lambda scene: type("Rehearsal", (), {"step": 0.001}))
    with pytest.raises(ResourceError, match="time ended before any recipe was trained"):
        select(handmade.bundle(*recipes()), Choice(threads=1, seconds=1e-6))
    found = select(handmade.bundle(*recipes()), Choice(threads=1, seconds=600.0))
    assert found.candidates[0].seeds == 3
    monkeypatch.setattr(selection, "rehearse", lambda scene: type("Rehearsal", (), {"step": 10.0}))
    found = select(handmade.bundle(*recipes()), Choice(threads=1, seconds=300.0))
    assert "every training is cut to" in found.notes[0]
    assert found.trained.steps < 27


@given(st.floats(0.0, 99.0), st.floats(0.5, 100.0))
def test_ticks_are_round_few_and_inside(low: float, span: float) -> None:
    found = chart.ticks(low, low + span)
    assert 2 <= len(found) <= 10
    assert all(low <= each <= low + span for each in found)
    gaps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(gaps) == 1
    assert all(float(f"{gap:.1e}") == pytest.approx(gap) for gap in gaps)


def test_logarithmic_ticks_are_1_2_5() -> None:
    assert chart.ticks(0.015, 0.3, logarithmic=True) == pytest.approx([0.02, 0.05, 0.1, 0.2])


def test_a_chart_has_each_trained_recipe_and_is_legible(tmp_path: Path) -> None:
    done = [
        candidate("tiny", 0.6, 1e-4, 15_000),
        candidate("wide", 0.9, 3e-4, 800_000),
        candidate("bad", 0.5, 9e-4, 90_000),
        candidate("none", None, share=0.0, state="excluded"),
    ]
    placed, error, tied = ranked(done, 200)
    found = selection.Selection(tuple(placed), "probe", 200, error, tied, b"", None, (), 1.0)  # type: ignore[arg-type]
    chart.save_chart(tmp_path / "pareto.png", found, "which one")
    image = Image.open(io.BytesIO((tmp_path / "pareto.png").read_bytes())).convert("RGB")
    assert image.size == (chart.WIDTH, chart.HEIGHT)
    pixels = np.asarray(image).reshape(-1, 3).astype(int)
    for colour in (chart.BEST, chart.FRONT, chart.OTHER):
        assert (np.abs(pixels - colour).sum(1) < 12).sum() > 60
    # Discs whose areas go with the sizes: the winner's is the largest.
    assert (np.abs(pixels - chart.BEST).sum(1) < 12).sum() > math.pi * 20**2
    with pytest.raises(UsageError, match=r"\.png"):
        chart.save_chart(tmp_path / "pareto.pdf", found, "which one")
