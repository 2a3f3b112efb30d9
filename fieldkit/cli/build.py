"""``fieldkit build``: a bundle from a data set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from fieldkit.cli import faces, options
from fieldkit.errors import Interrupted, UsageError

if TYPE_CHECKING:
    from fieldkit.hq.building import Built
    from fieldkit.hq.compiler import Optimiser
    from fieldkit.hq.distil.driver import Budget, Status
    from fieldkit.hq.distil.labels import Labels
    from fieldkit.hq.spec import RecipeSpec


GO_ON = "the same command with --resume goes on"


@click.command(
    epilog="\b\nExamples:\n  fieldkit build digits -o digits.h5 --ipc 5 --minutes 1\n"
    "  fieldkit build data.npz -o set.h5 --ipc 10 --method unrolled --recipe convnet:width=32 --probe 200\n"
    "  fieldkit build data.npz -o own.h5 --recipe my_models.tiny:make:width=32"
)
@click.argument("data")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Bundle to write.")
@click.option("--ipc", type=click.IntRange(min=1), default=10, show_default=True, help="Distilled images per class.")
@click.option(
    "--formation",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Store so many smaller images along each side of one: 2 gives four times as many, at half the size, in the "
    "same space.  A device enlarges them.",
)
@click.option(
    "--method",
    default="auto",
    show_default=True,
    help="auto takes what suits data, set and time, and says why.  Or, by family, bptt, ridge, unrolled, beside; "
    "gradient, trajectory; distribution, characteristic; generative; patches, inversion; herding, kcenter, random.",
)
@click.option(
    "--beside",
    multiple=True,
    metavar="EARLIER.h5",
    help="A bundle of an earlier task, beside which a device will learn this one; repeatable, first learnt first.  The "
    "new data have classes of their own.  See fieldkit learn.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the method; repeatable.")
@click.option(
    "--init",
    type=click.Choice(["fixed", "random"]),
    default="random",
    show_default=True,
    help="Whether the first weights travel in the bundle or each device draws its own.",
)
@click.option(
    "--start",
    type=click.Choice(["real", "centres", "means", "noise"]),
    help="Where the distilled pixels start: real samples, which leak more of the data than the others; each class's "
    "k-means centres; its mean; or noise.  [default: the method's]",
)
@click.option(
    "--labels",
    metavar="KIND[:KEY=VALUE,...]",
    help="hard; learned, by a method that can; or teacher: soft ones from networks trained on the real data, with "
    "teachers (how many), epochs, rate, temperature and views.  [default: the method's]",
)
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="MODEL[:KEY=VALUE,...]",
    default=("convnet:width=32",),
    show_default=True,
    help="A model to compile, with options; repeatable.  The set is distilled for the first.  convnet, mlp, mobilenet, "
    "resnet, vit, or package.module:factory for a torch.nn.Module of your own, which options are handed to.  The "
    "default is small enough for a device, and to distil on two cores; its depth follows from the image.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Training steps on a device.  [default: the method's]")
@click.option("--batch", type=click.IntRange(min=1), help="Images in a training step.  [default: the method's]")
@click.option(
    "--schedule",
    metavar="KIND[:KEY=VALUE,...]",
    default="",
    help="Learning rates on a device: constant, cosine, one-cycle or step, with rate, warmup, factor and milestones "
    "(steps, as in 100+200).  "
    "[default: the method's]",
)
@click.option(
    "--augment",
    multiple=True,
    metavar="KEY=VALUE",
    help="Random changes of each image in a training step: shift, scale, cutout (parts of the image's side), rotate "
    "(degrees), flip (true: left and right), brightness, contrast; 0 turns one off.  Repeatable.  [default: the "
    "method's, which mirror nothing]",
)
@click.option(
    "--optimiser",
    metavar="NAME[:KEY=VALUE,...]",
    default="sgd",
    show_default=True,
    help="Inside the train programs: sgd (momentum, weight_decay, nesterov, decoupled) or adamw (beta1, beta2, eps, "
    "weight_decay).",
)
@click.option(
    "--regularise",
    multiple=True,
    metavar="KEY=VALUE",
    help="clip_norm: largest norm of all gradients; average: decay of the weights' moving average, which then is the "
    "model; label_smoothing.  Repeatable.",
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("full",),
    show_default=True,
    help="What a train program trains: full, head, norm-bias, last-K blocks, or unlabelled (the normalisations, on "
    "images without labels); repeatable.",
)
@click.option(
    "--spare-classes",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Outputs of the recipes beside those of the data's classes: a device can add so many classes of its own.",
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Time to distil.")
@click.option("--iterations", type=click.IntRange(min=1), help="Iterations to distil: the same bytes each time.")
@click.option(
    "--probe",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Real labelled images that the bundle carries to check a device's model.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all randomness.")
@click.option(
    "--levels",
    type=click.IntRange(min=2),
    help="Grey levels of a stored pixel; fewer make a smaller file.  [default: all]",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the distillation's products; bfloat16 takes half the time where the processor has it (AVX-512 BF16, AMX, "
    "a recent GPU).  Devices train in float32 either way.  [default: float32; with --minutes and a method that stands "
    "it, bfloat16 where that is quicker]",
)
@click.option(
    "--whiten",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Whiten images by their surroundings (ZCA) on their way into every network, by a constant convolution of this "
    "odd size inside the programs; 5, say, for photographs.  [default: none]",
)
@click.option("--name", help="Name in the bundle.  [default: that of the file]")
@click.option(
    "--serial",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Number of this issue of a bundle of this name.  A device that trusts its signature takes no lower one "
    "afterwards, so count up.",
)
@click.option("--resume", is_flag=True, help="Go on with a job that was stopped; repeat its options.")
@options.threads
@options.as_json
@options.quiet
def build(
    data: str,
    output: Path,
    *,
    ipc: int,
    method: str,
    settings: tuple[str, ...],
    init: str,
    labels: str | None,
    recipes: tuple[str, ...],
    schedule: str,
    augment: tuple[str, ...],
    optimiser: str,
    regularise: tuple[str, ...],
    minutes: float | None,
    iterations: int | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
    **rest: Any,
) -> None:
    """Distil DATA, compile each recipe's training, and pack both into a bundle.

    DATA is an HDF5 or npz file with x_train, y_train and optionally x_test, y_test and classes; a folder of images,
    train/CLASS/* or CLASS/*; or the word digits, for scikit-learn's own.

    Ctrl-C keeps the best set so far; the same command with --resume goes on from there.  Several processes or hosts
    distil together under torchrun -m fieldkit build ....
    """
    from fieldkit.hq import building
    from fieldkit.hq.compiler.updates import Regularisation
    from fieldkit.hq.spec import Spec

    spec = Spec(
        data=data,
        ipc=ipc,
        method=method,
        settings=parsed(settings, "--set"),
        init=init,
        labels=None if labels is None else labelling(labels),
        recipes=tuple(recipe(text) for text in recipes),
        schedule=rates(schedule),
        augmentation=parsed(augment, "--augment"),
        optimiser=update(optimiser),
        regularisation=checked(Regularisation, parsed(regularise, "--regularise"), "--regularise"),
        budget=budget(minutes, iterations),
        **rest,
    )
    try:
        with faces.Progress("distilling", "iterations", quiet) as progress:
            built = building.build(
                spec,
                output,
                resume=resume,
                report=lambda status: progress.show(*shown(status)),
                note=lambda text: faces.print_note(text, quiet),
            )
    except KeyboardInterrupt:
        if not building.checkpoint_file(output).exists():
            raise
        raise Interrupted("stopped before the bundle was written", where=output, remedy=GO_ON) from None
    if built is None:
        return
    show(built, output, as_json)
    if built.outcome.interrupted:
        message = "stopped before the budget was used up; the bundle holds the best set so far"
        raise Interrupted(message, where=output, remedy=GO_ON)


def parsed(pairs: Sequence[str], where: str) -> dict[str, Any]:
    """{"window": 8} from ["window=8"]: numbers, true and false are read as such, anything else as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError("not a setting", where=where, found=pair, expected="KEY=VALUE")
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def recipe(text: str) -> RecipeSpec:
    """A model with options, from "convnet:width=32,norm=group" or "package.module:factory:width=32"."""
    from fieldkit.hq.models import ARCHITECTURES
    from fieldkit.hq.spec import RecipeSpec

    name, _, given = text.partition(":")
    factory, _, rest = given.partition(":")
    if factory and "=" not in factory and name not in ARCHITECTURES:
        name, given = f"{name}:{factory}", rest
    return RecipeSpec(name, parsed(given.split(",") if given else [], f"--recipe {name}"))


def rates(text: str) -> dict[str, Any]:
    """Fields of a schedule, from "one-cycle:rate=0.1,warmup=30" or "step:milestones=100+200"; of none, from ""."""
    kind, _, given = text.partition(":")
    found = ({"kind": kind} if kind else {}) | parsed(given.split(",") if given else [], "--schedule")
    if "milestones" in found:
        found["milestones"] = tuple(_value(each) for each in str(found["milestones"]).split("+"))
    return found


def update(text: str) -> Optimiser:
    """An optimiser, from "sgd:momentum=0.9,nesterov=true"."""
    from fieldkit.hq.compiler import OPTIMISERS

    name, _, given = text.partition(":")
    if name not in OPTIMISERS:
        raise UsageError("unknown optimiser", where="--optimiser", found=name, expected=" or ".join(OPTIMISERS))
    values = parsed(given.split(",") if given else [], f"--optimiser {name}")
    return cast("Optimiser", checked(OPTIMISERS[name], values, f"--optimiser {name}"))


def labelling(text: str) -> Labels:
    """A kind of labels, from "hard" or "teacher:teachers=5,temperature=2"."""
    from fieldkit.hq.distil.labels import Labels, Teaching

    kind, _, given = text.partition(":")
    where = f"--labels {kind}"
    return Labels(kind, checked(Teaching, parsed(given.split(",") if given else [], where), where))


def checked(kind: Callable[..., Any], values: Mapping[str, Any], where: str) -> Any:
    """The settings of a frozen dataclass of numbers and switches.  Raises UsageError for a name or a kind it lacks."""
    import dataclasses

    known = [each.name for each in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError("no such setting", where=where, found=", ".join(unknown), expected=", ".join(known))
    for name, value in values.items():
        if not isinstance(value, int | float):
            expected = "a number, true or false"
            raise UsageError("wrong kind of value", where=f"{where} {name}", found=repr(value), expected=expected)
    return kind(**values)


def budget(minutes: float | None, iterations: int | None) -> Budget | None:
    """The budget that the user named, if any."""
    from fieldkit.hq.distil.driver import Budget

    if minutes is None and iterations is None:
        return None
    return Budget(iterations, None if minutes is None else 60.0 * minutes)


def shown(status: Status) -> tuple[str, int, float, str]:
    """A status as (place, count, share, note) of the progress display."""
    best = "" if status.best is None else f", best held-out {faces.percent(status.best)}"
    note = f"{status.iterations} iterations, loss {status.loss:.4f}{best}"
    return f"{100 * status.done:.0f} %", status.iterations, status.done, note


def show(built: Built, output: Path, as_json: bool) -> None:
    """What was built, as text or as a JSON document."""
    manifest, outcome = built.bundle.manifest, built.outcome
    size = output.stat().st_size
    if as_json:
        document = {
            "bundle": {"file": str(output), "name": manifest.name, "digest": built.bundle.digest, "bytes": size},
            "method": dict(manifest.method),
            "iterations": outcome.iterations,
            "seconds": round(outcome.seconds, 1),
            "interrupted": outcome.interrupted,
            "expectations": manifest.to_json()["expectations"],
        }
        faces.print_json("build", document)
        return
    click.echo(
        f"{output}: {len(built.bundle.images)} distilled images, {size:,} bytes, "
        f"{outcome.iterations} iterations in {faces.duration(outcome.seconds)}"
    )
    for name, splits in manifest.expectations.items():
        for split, each in splits.items():
            click.echo(
                f"{name}, {split}: {100 * each.mean:.2f} +- {100 * each.std:.2f} % of {each.samples} images right, "
                f"{each.seeds} trainings through the field engine"
            )
