"""``fieldkit select``: the best recipe of a bundle for this device."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fieldkit.cli import faces, options
from fieldkit.cli.sizes import SIZE, spelt

if TYPE_CHECKING:
    from fieldkit.field.selection.candidates import Candidate
    from fieldkit.field.selection.selection import Selection


@click.command(
    epilog="\b\nExample:\n  fieldkit select bundle.h5 -o best.onnx --plot pareto.png\n"
    "  fieldkit select bundle.h5 --max-latency-ms 2 --max-size 200KB --max-memory 100MB --minutes 5"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The winner's model.  [default: BUNDLE's name with .onnx]"
)
@click.option(
    "--max-latency-ms", type=click.FloatRange(min=0, min_open=True), help="Longest median time for one image."
)
@click.option("--max-size", type=SIZE, help="Largest model file, such as 200KB.")
@click.option("--max-memory", type=SIZE, help="Most memory of a process that predicts, such as 100MB.")
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="How long all of it may last.  [default: no limit]"
)
@click.option("--seeds", type=click.IntRange(1, 100), default=3, show_default=True, help="Trainings of each recipe.")
@click.option("--no-elimination", is_flag=True, help="Train every recipe to its end, for a Pareto set without gaps.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw accuracy over latency into this PNG file.")
@options.opening
@options.provider
@options.threads
@options.as_json
@options.quiet
def select(
    bundle: Path,
    *,
    output: Path | None,
    max_latency_ms: float | None,
    max_size: int | None,
    max_memory: int | None,
    minutes: float | None,
    seeds: int,
    no_elimination: bool,
    plot: Path | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **opening: Any,
) -> None:
    """Find the recipe of BUNDLE that suits this device best, and write its model.

    Latency, size and memory are measured here, in a process of their own.  The recipes within the limits are trained by
    successive halving and scored on the bundle's probe.  Of those within its standard error of the best, the quickest
    wins.  A star marks the Pareto set: no other is at least as good in accuracy, latency, size and memory.
    """
    from fieldkit.bundle.atomic import check_apart, check_writable, write_atomically
    from fieldkit.field.measurement.ranking import Limits
    from fieldkit.field.selection import chart
    from fieldkit.field.selection.selection import Choice
    from fieldkit.field.selection.selection import select as choose
    from fieldkit.field.trust.admission import open_bundle

    target = output or Path(f"{bundle.stem}.onnx")
    check_writable(target)
    if plot is not None:
        chart.check_chart_name(plot)
        check_writable(plot)
    check_apart({"model": target, "picture": plot}, {"bundle": bundle})
    admitted = open_bundle(bundle, **opening)
    limits = Limits(None if max_latency_ms is None else max_latency_ms / 1e3, max_size, max_memory)
    choice = Choice(limits, None if minutes is None else 60 * minutes, seeds, not no_elimination, threads)
    with _Phases(quiet) as phases:
        found = choose(admitted.bundle, choice, phases)
    write_atomically(target, found.model)
    if plot is not None:
        chart.save_chart(plot, found, f"{admitted.bundle.manifest.name}: which recipe for this device")
    for note in found.notes:
        faces.print_note(note, quiet)
    if as_json:
        named = {"file": str(bundle), "name": admitted.bundle.manifest.name, "digest": admitted.bundle.digest}
        model = {"file": str(target), "bytes": len(found.model)}
        faces.print_json("select", {"bundle": named, "model": model, **found.to_json()})
        return
    click.echo(_table(found))
    click.echo(f"\n{target}: {_verdict(found)}")


class _Phases:
    """A progress display for each phase of a selection: each has a pace of its own."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._stack = ExitStack()
        self._shown = ""
        self._progress: faces.Progress | None = None

    def __enter__(self) -> _Phases:
        return self

    def __exit__(self, *ending: Any) -> None:
        self._stack.close()

    def __call__(self, phase: str, note: str, done: int, total: int) -> None:
        if self._progress is None or phase != self._shown:
            self._stack.close()
            self._shown = phase
            unit = {"trying": "models", "training": "steps"}[phase]
            self._progress = self._stack.enter_context(faces.Progress(phase, unit, self._quiet))
        self._progress(done, total, note)


def _table(found: Selection) -> str:
    """The ranking."""
    rows = [("", "recipe", "accuracy", "seeds", "steps", "latency ms", "images/s", "size", "memory", "")]
    for place, each in enumerate(found.candidates, start=1):
        score = "-" if each.accuracy is None else f"{100 * each.accuracy:.1f} +- {100 * each.spread:.1f} %"
        trained = each.accuracy is not None
        rows.append(
            (
                f"{place}{'*' if each.efficient else ' '}",
                each.recipe,
                score,
                str(each.seeds) if trained else "-",
                f"{each.steps}/{each.full}" if trained else "-",
                f"{1e3 * each.cost.latency:.3g}",
                f"{each.cost.rate:.0f}",
                spelt(each.cost.size),
                spelt(each.cost.memory),
                _remark(each, found),
            )
        )
    return faces.table(rows, numbers=range(2, 9))


def _remark(candidate: Candidate, found: Selection) -> str:
    """Why a recipe stands where it stands."""
    from fieldkit.field.selection.candidates import broken_limits

    if candidate.recipe in found.tied and len(found.tied) > 1:
        return "as accurate as the best"
    return {
        "excluded": broken_limits(candidate),
        "stopped": "given up early",
        "unfinished": "not finished in time",
        "diverged": "its training diverged",
        "unmeasured": "not measured at HQ",
    }.get(candidate.state, "")


def _verdict(found: Selection) -> str:
    """Who won, and how sure that is."""
    winner, made = found.winner, found.trained
    score = f"{faces.percent(winner.accuracy or 0.0)} of {found.samples} images ({found.source})"
    line = f"{winner.recipe}, seed {made.seed}, {made.steps} steps; trained with {winner.steps} steps it gets {score}"
    if len(found.tied) > 1:
        others = ", ".join(name for name in found.tied if name != winner.recipe)
        line += f"; {others} cannot be told from it, within {100 * found.error:.1f} points, and the quickest is taken"
    return line
