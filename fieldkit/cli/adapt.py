"""``fieldkit adapt``: a trained model, adapted to a device's own samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fieldkit.cli import faces, options
from fieldkit.errors import UsageError

if TYPE_CHECKING:
    from fieldkit.field.adaptation.command import Outcome
    from fieldkit.field.adaptation.comparison import Comparison
    from fieldkit.field.endurance.mission import Conditions

# Options that mean nothing to the other kind of samples.
LABELLED, UNLABELLED = ("scope", "hold_out", "mirror", "keep_probe"), ("tolerance",)


@click.command(
    epilog="\b\nExample:\n  fieldkit adapt model.onnx bundle.h5 --data photos/ -o adapted.onnx\n"
    "  fieldkit adapt model.onnx bundle.h5 --unlabelled new-camera/"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A few labelled samples: a folder of images, CLASS/*, or an HDF5 or npz file as fieldkit build takes it.",
)
@click.option(
    "--unlabelled",
    type=click.Path(path_type=Path),
    help="Images without labels, of a sensor that has changed: a folder, or an npy or npz file.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Model file.  [default: MODEL's with -adapted]")
@click.option(
    "--scope",
    type=click.Choice(["head", "norm-bias", "full"]),
    help="What changes: the last layer, which is solved in closed form; or then normalisations and biases too, or all, "
    "by steps of a train program that BUNDLE must have been built with.  [default: head; full with --steps]",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Training steps.  [default: 60, for scope head none; without labels 100]",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Highest learning rate.  [default: a tenth of the recipe's; without labels 0.3 of it]",
)
@click.option(
    "--replay",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="Share of what is learnt that is replayed, of what BUNDLE taught; 0 forgets what your samples lack.  "
    "[default: each class the same; without labels 0.5]",
)
@click.option(
    "--hold-out",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    help="Share of each class's samples that only measures.  [default: 0.2; a test split of the data takes its place]",
)
@click.option("--mirror", is_flag=True, default=None, help="Images may be mirrored, left to right.")
@click.option(
    "--keep-probe",
    is_flag=True,
    default=None,
    help="Learn from none of BUNDLE's probe.  [default: half of it is replayed as real images, half measures]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 100),
    metavar="POINTS",
    help="Without labels: points of accuracy that the model may lose on what BUNDLE knows, or the change is refused.  "
    "[default: 2]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the training.")
@click.option("--other-bundle", is_flag=True, help="Take a MODEL that came from another bundle with the same recipe.")
@options.opening
@options.conditions
@options.as_json
@options.quiet
def adapt(
    model: Path,
    bundle: Path,
    *,
    data: Path | None,
    unlabelled: Path | None,
    output: Path | None,
    scope: str | None,
    steps: int | None,
    rate: float | None,
    replay: float | None,
    hold_out: float | None,
    mirror: bool | None,
    keep_probe: bool | None,
    tolerance: float | None,
    seed: int,
    other_bundle: bool,
    conditions: Conditions,
    as_json: bool,
    quiet: bool,
    **opening: Any,
) -> None:
    """Adapt MODEL to samples of your own without forgetting BUNDLE, which it was trained from.

    With --data, known classes are joined by name, and new ones take the spare outputs that the bundle was built with
    (fieldkit build --spare-classes).  Distilled images of BUNDLE are replayed beside, and half of its probe.  The model
    is measured before and after: on the samples that are held out, and on the rest of BUNDLE's probe, or on its
    distilled set where it has no probe.

    With --unlabelled, the model's normalisations follow a sensor that has changed, by making its predictions surer; a
    change that costs more than --tolerance on the probe is refused.

    The same command after a loss of power goes on where it was.
    """
    from fieldkit.field.adaptation.command import AdaptRequest, adapt_file
    from fieldkit.field.adaptation.labelled import Adaptation
    from fieldkit.field.adaptation.unlabelled import UnlabelledAdaptation

    given: dict[str, Any] = {"steps": steps, "rate": rate, "replay": replay, "seed": seed}
    shared = {name: value for name, value in given.items() if value is not None}
    chosen: dict[str, Any] = {
        "scope": scope,
        "hold_out": hold_out,
        "mirror": mirror,
        "keep_probe": keep_probe,
        "tolerance": None if tolerance is None else tolerance / 100,
    }
    idle = UNLABELLED if unlabelled is None else LABELLED
    odd = [f"--{name.replace('_', '-')}" for name in idle if chosen.pop(name) is not None]
    if odd:
        kind = "--data" if unlabelled is None else "--unlabelled"
        raise UsageError("an option of the other kind of samples", found=", ".join(odd), expected=f"options of {kind}")
    own = {name: value for name, value in chosen.items() if value is not None}
    settings = (Adaptation if unlabelled is None else UnlabelledAdaptation)(**shared, **own)
    target = output or model.with_name(f"{model.stem}-adapted.onnx")
    with faces.Progress("adapting", "steps", quiet) as progress:
        outcome = adapt_file(
            AdaptRequest(model, bundle, target, data, unlabelled, other_bundle, opening),
            settings,
            conditions,
            lambda done, total, loss: progress(done, total, f"loss {loss:.4f}"),
        )
    if as_json:
        faces.print_json(
            "adapt", {"model": str(model), "bundle": str(bundle), "file": str(target), **outcome.to_json()}
        )
    else:
        click.echo(_text(outcome, target))


def _text(outcome: Outcome, target: Path) -> str:
    """What was written, and a line for each thing that was measured before and after."""
    from fieldkit.field.adaptation.labelled import Adapted

    made, trained = outcome.made, outcome.made.trained
    how = f"{trained.steps} steps" if trained.steps else "last layer solved"
    loss = f", loss {trained.losses[-1]:.4f}" if trained.steps else ""
    title = f"{target}: {trained.recipe.name}, {how} in {faces.duration(outcome.account.seconds)}{loss}"
    lines = [faces.heading(title)]
    if isinstance(made, Adapted):
        new = made.local.classes[made.local.known :]
        lines += [f"new classes: {', '.join(new)}"] * bool(new)
        lines += ["", _table(made.comparisons)]
        if made.probe_learnt:
            lines.append(f"{made.probe_learnt} other images of the probe were learnt from")
        if made.local.held_out is None:
            lines.append("local hold-out: none, so what the model makes of your samples was not measured")
        return "\n".join(lines)
    sure = made.sureness
    change = f"{sure.entropy_before:.3f} to {sure.entropy_after:.3f} nats"
    lines += ["", _table([made.comparison])]
    lines.append(
        f"{sure.images} images without labels: entropy of the predictions {change} on average, "
        f"{faces.percent(sure.changed)} of them changed class"
    )
    return "\n".join(lines)


def _table(comparisons: Sequence[Comparison]) -> str:
    rows = [("measured on", "classes", "images", "before", "after")]
    for each in comparisons:
        for name, new in (("known", False), ("new", True)):
            before, after = each.part(each.before, new=new), each.part(each.after, new=new)
            if before is None or after is None:
                continue
            classes = each.after.classes[each.known :] if new else each.after.classes[: each.known]
            count = sum(one.support for one in classes)
            rows.append((each.where, name, str(count), faces.percent(before), faces.percent(after)))
    return faces.table(rows, numbers=(2, 3, 4))
