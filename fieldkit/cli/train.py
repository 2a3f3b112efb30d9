"""``fieldkit train``: a model from a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fieldkit.cli import faces, options
from fieldkit.errors import UsageError

if TYPE_CHECKING:
    from fieldkit.field.acceptance import Acceptance


@click.command(epilog="\b\nExample:\n  fieldkit train bundles/mnist-10.h5 -o model.onnx --seed 1")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Model file.  [default: BUNDLE's name with .onnx]"
)
@click.option("--recipe", help="Which recipe of the bundle to train.  [default: its first]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the training.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.  [default: the recipe's own]")
@options.threads
@options.as_json
@options.quiet
def train(
    bundle: Path,
    output: Path | None,
    recipe: str | None,
    seed: int,
    steps: int | None,
    threads: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a model from the distilled set of BUNDLE and write it as a plain ONNX file.

    If the bundle carries a probe, the model is scored on it and compared with what HQ measured, and how sure the model
    may be of its answers is measured too: predict marks those that are uncertain.
    """
    from fieldkit.bundle.atomic import check_writable, write_atomically
    from fieldkit.bundle.reader import read_bundle
    from fieldkit.field import acceptance, confidence, exporting, training

    opened = read_bundle(bundle)
    target = output or Path(f"{bundle.stem}.onnx")
    if check_writable(target) == bundle.resolve():
        raise UsageError("the model would replace the bundle", where=target, remedy="name another file with -o")
    begin = time.monotonic()
    with faces.Progress("training", "steps", quiet) as progress:
        trained = training.train(
            opened,
            recipe,
            seed=seed,
            steps=steps,
            threads=threads,
            progress=lambda done, total, loss: progress(done, total, f"loss {loss:.4f}"),
        )
    seconds = time.monotonic() - begin
    model = confidence.calibrate(exporting.export(trained, opened), opened, threads)
    write_atomically(target, model)
    accepted = acceptance.accept(model, trained, opened, threads)
    if as_json:
        document = {
            "bundle": {"file": str(bundle), "name": opened.manifest.name, "digest": opened.digest},
            "model": {"file": str(target), "bytes": len(model)},
            "recipe": trained.recipe.name,
            "seed": trained.seed,
            "steps": trained.steps,
            "seconds": round(seconds, 3),
            "loss": {"first": float(trained.losses[0]), "last": float(trained.losses[-1])},
            "probe": None if accepted is None else accepted.to_json(),
        }
        faces.print_json("train", document)
        return
    click.echo(
        f"{target}: {trained.recipe.name}, {trained.recipe.size:,} parameters, {trained.steps} steps in "
        f"{faces.duration(seconds)}, loss {trained.losses[-1]:.4f}"
    )
    click.echo(_verdict(accepted))


def _verdict(accepted: Acceptance | None) -> str:
    """The score on the probe in one line."""
    if accepted is None:
        return "probe: the bundle carries none, so the model was not scored"
    line = f"probe: {faces.percent(accepted.accuracy)} of {accepted.samples} images right"
    if accepted.low is None or accepted.high is None:
        return f"{line}; HQ measured nothing to compare with"
    measured = f"HQ measured {100 * accepted.low:.1f}-{faces.percent(accepted.high)}"
    if not accepted.comparable:
        return f"{line}; {measured}, but with the recipe's own number of steps"
    if accepted.within:
        return f"{line}, as expected: {measured}"
    remedy = "train with another --seed; if that is no better, the bundle does not suit this device"
    return f"{line}, LESS THAN EXPECTED: {measured}\n  remedy: {remedy}"
