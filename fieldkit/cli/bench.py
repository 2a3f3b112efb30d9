"""``fieldkit bench``: how fast a bundle's recipes are on this device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fieldkit.cli import faces, options
from fieldkit.cli.sizes import spelt

if TYPE_CHECKING:
    from fieldkit.field.measurement.benchmark import Measurement


@click.command(
    epilog="\b\nExample:\n  fieldkit bench bundles/mnist-10.h5\n  fieldkit bench bundles/mnist-10.h5 --full --json"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--recipe", help="Measure this recipe alone.  [default: all of the bundle]")
@click.option("--full", is_flag=True, help="Make a whole training of each recipe too, in place of reckoning its time.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long each recipe is measured: half of it training, half predicting.",
)
@options.opening
@options.threads
@options.provider
@options.as_json
@options.quiet
def bench(
    bundle: Path,
    recipe: str | None,
    full: bool,
    seconds: float,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **opening: Any,
) -> None:
    """Measure how fast each recipe of BUNDLE trains and predicts here, and what memory and energy that takes.

    Steps and predictions run in processes of their own, so that each peak of memory is one thing's alone.
    """
    from fieldkit.field.engine.training import choose_recipe
    from fieldkit.field.measurement import benchmark
    from fieldkit.field.trust.admission import open_bundle

    opened = open_bundle(bundle, **opening).bundle
    chosen = [choose_recipe(opened, recipe)] if recipe else list(opened.recipes.values())
    found = []
    with faces.Progress("measuring", "recipes", quiet) as progress:
        for done, each in enumerate(chosen, start=1):
            found.append(benchmark.bench(opened, each, seconds=seconds, threads=threads, whole=full))
            progress(done, len(chosen), each.name)
    if as_json:
        named = {"file": str(bundle), "name": opened.manifest.name, "digest": opened.digest}
        faces.print_json("bench", {"bundle": named, "recipes": [each.to_json() for each in found]})
    else:
        click.echo("\n\n".join(_text(each) for each in found))


def _text(found: Measurement) -> str:
    """One recipe's measurement."""
    title = faces.heading(f"recipe {found.recipe.name}")
    if found.training is None or found.inference is None or found.seconds is None:
        return f"{title}\n  does not fit: {found.fault}"
    training, inference = found.training, found.inference
    spread = f"{1e3 * min(training.steps):.1f}-{1e3 * max(training.steps):.1f}"
    rows = [
        ("step", f"{1e3 * training.step:.1f} ms, median of {len(training.steps)} ({spread}), {training.batch} images"),
        ("speed", f"{training.batch / training.step:,.0f} images/s"),
        ("training", f"{faces.duration(found.seconds)} for {found.recipe.schedule.steps} steps, by these"),
        ("memory", f"{spelt(training.process)} at the most"),
        ("energy", "not readable here" if training.joules is None else f"{training.joules:.3f} J a step"),
        ("inference", f"{inference.rate:,.0f} images/s in batches, {1e3 * inference.latency:.2f} ms for one"),
        ("", f"{spelt(inference.memory)} at the most"),
    ]
    if found.whole is not None:
        joules = "" if found.whole[1] is None else f", {found.whole[1]:.1f} J"
        rows.insert(3, ("", f"{faces.duration(found.whole[0])} measured{joules}"))
    return "\n".join([title, *(f"  {name:9}  {value}" for name, value in rows)])
