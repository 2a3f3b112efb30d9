"""``fieldkit train``: a model from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fieldkit.cli import faces, options

if TYPE_CHECKING:
    from fieldkit.field.endurance.mission import Conditions
    from fieldkit.field.models.acceptance import Acceptance


@click.command(
    epilog="\b\nExample:\n  fieldkit train bundles/mnist-10.h5 -o model.onnx --seed 1\n"
    "  fieldkit train bundles/mnist-10.h5 --minutes 5 --max-memory 200MB --max-temp 80 --log run.jsonl"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Model file.  [default: BUNDLE's name with .onnx]"
)
@click.option("--recipe", help="Which recipe of the bundle to train.  [default: its first]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the training.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.  [default: the recipe's own]")
@click.option(
    "--scope", default="full", show_default=True, help="Which of the recipe's train programs: full, head, norm-bias ..."
)
@options.opening
@options.conditions
@options.as_json
@options.quiet
def train(
    bundle: Path,
    output: Path | None,
    conditions: Conditions,
    as_json: bool,
    quiet: bool,
    recipe: str | None,
    seed: int,
    steps: int | None,
    scope: str,
    **opening: Any,
) -> None:
    """Train a model from the distilled set of BUNDLE and write it as a plain ONNX file.

    After a loss of power, or Ctrl-C, the same command goes on where it was, and ends with the same model, bit for bit.
    If the bundle carries a probe, the model is scored on it and compared with what HQ measured, and how sure the model
    may be of its answers is measured too: predict marks those that are uncertain.
    """
    from fieldkit.bundle.atomic import check_apart
    from fieldkit.field.models.production import Order, train_model
    from fieldkit.field.trust.admission import open_bundle

    target = output or Path(f"{bundle.stem}.onnx")
    check_apart({"model": target, "log": conditions.log}, {"bundle": bundle})
    source = open_bundle(bundle, **opening)
    with faces.Progress("training", "steps", quiet) as progress:
        made = train_model(
            source,
            target,
            Order(recipe, seed, steps, scope),
            conditions,
            lambda done, total, loss: progress(done, total, f"loss {loss:.4f}"),
        )
    if as_json:
        manifest = source.bundle.manifest
        named = {"file": str(bundle), "name": manifest.name, "digest": source.bundle.digest}
        faces.print_json(
            "train", {"bundle": named, "model": {"file": str(target), "bytes": made.size}, **made.to_json()}
        )
        return
    trained = made.trained
    click.echo(
        f"{target}: {trained.recipe.name}, {trained.recipe.size:,} parameters, {trained.steps} steps in "
        f"{faces.duration(made.account.seconds)}, loss {trained.losses[-1]:.4f}"
    )
    click.echo(_verdict(made.accepted))


def _verdict(accepted: Acceptance | None) -> str:
    """The score on the probe in one line."""
    if accepted is None:
        return "probe: the bundle carries none, so the model was not scored"
    line = f"probe: {faces.percent(accepted.accuracy)} of {accepted.samples} images right"
    if accepted.low is None or accepted.high is None:
        return f"{line}; HQ measured nothing to compare with"
    measured = f"HQ measured {100 * accepted.low:.1f}-{faces.percent(accepted.high)}"
    if not accepted.comparable:
        return f"{line}; {measured}, but of scope full with the recipe's own number of steps"
    if accepted.within:
        return f"{line}, as expected: {measured}"
    remedy = "train with another --seed; if that is no better, the bundle does not suit this device"
    return f"{line}, LESS THAN EXPECTED: {measured}\n  remedy: {remedy}"
