"""``fieldkit learn``: task after task into one model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fieldkit.cli import faces, options
from fieldkit.cli.sizes import SIZE, spelt
from fieldkit.errors import UsageError

if TYPE_CHECKING:
    from fieldkit.field.endurance.mission import Conditions
    from fieldkit.field.learning.command import Outcome


@click.command(
    epilog="\b\nExample:\n  fieldkit learn device.state --bundle task1.h5\n"
    "  fieldkit learn device.state --bundle task2.h5 -o model.onnx\n"
    "  fieldkit learn device.state --data photos/\n"
    "  fieldkit learn device.state --report"
)
@click.argument("state", type=click.Path(path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle whose distilled set is to be learnt.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Labelled samples of your own that are to be learnt: an HDF5 or npz file, or a folder with CLASS/*.",
)
@click.option("--report", "only_report", is_flag=True, help="Learn nothing; say what STATE holds and how well it does.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write the model, with the classes in use.")
@click.option("--recipe", help="Which recipe of the first bundle to train.  [default: its first]")
@click.option(
    "--memory",
    type=SIZE,
    metavar="SIZE",
    help="What the memory may hold, such as 256KB; distilled sets count too.  [default: as before; 256KB at first]",
)
@click.option(
    "--choose",
    type=click.Choice(["herding", "reservoir"]),
    default="herding",
    show_default=True,
    help="Which of your own samples the memory keeps.",
)
@click.option(
    "--answers",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="How much of a remembered image's label is the answer that the model once gave to it (as in DER++).",
)
@click.option("--anew", is_flag=True, help="Train from first weights on all that is remembered and what is new.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the training.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps.  [default: the recipe's own]")
@options.opening
@options.conditions
@options.as_json
@options.quiet
def learn(
    state: Path,
    bundle: Path | None,
    data: Path | None,
    only_report: bool,
    output: Path | None,
    recipe: str | None,
    memory: int | None,
    choose: str,
    answers: float,
    anew: bool,
    seed: int,
    steps: int | None,
    conditions: Conditions,
    as_json: bool,
    quiet: bool,
    **opening: Any,
) -> None:
    """Learn one more task and forget none: STATE holds the model and its memory.

    The first bundle makes STATE.  Later bundles and your own labelled samples may bring new classes, which take the
    spare ones that the first bundle was built with (fieldkit build --spare-classes); classes are joined by name.  Each
    task is trained together with the memory of all earlier ones: their distilled sets, and as many of your own samples
    as it has room for.  What was learnt once is not learnt again, so after a loss of power repeat the same command.
    """
    from fieldkit.field.learning.command import Request, keep
    from fieldkit.field.learning.continual import Options

    if not (bundle or data or only_report or memory or output):
        raise UsageError("nothing to do", where=state, remedy="name --bundle, --data, --report, --memory or -o")
    if only_report and (bundle or data):
        raise UsageError("--report learns nothing", where=state, remedy="leave out --report; every call reports")
    with faces.Progress("learning", "steps", quiet) as progress:
        outcome = keep(
            state,
            Request(bundle, data, recipe, memory, output, opening),
            Options(seed, steps, answers, choose, anew, conditions.threads),
            conditions,
            lambda done, total, loss: progress(done, total, f"loss {loss:.4f}"),
        )
    if (bundle or data) and not outcome.learnt:
        faces.print_note(f"{state}: {bundle or data} has been learnt before, so nothing was", quiet)
    if as_json:
        faces.print_json("learn", {"state": str(state), "model": output and str(output), **outcome.to_json()})
    else:
        click.echo(_text(outcome, state))


def _text(outcome: Outcome, path: Path) -> str:
    """A title, a line for each task, and how well all of it is known."""
    report, state = outcome.report, outcome.report.state
    names = state.manifest.classes
    spare = f" and {state.manifest.spare_classes} spare" if state.spared else ""
    title = (
        f"{path}: {state.recipe.name}, {len(names)} classes{spare}; memory {len(state.memory)} images, "
        f"{spelt(state.memory.bytes)} of {spelt(state.memory.limit)}; file {spelt(outcome.size)}"
    )
    rows: list[tuple[str, ...]] = [("task", "from", "classes", "remembered", "at first", "best", "now")]
    for number, task in enumerate(state.tasks, start=1):
        scores = [each for each in task.scores if each is not None]
        shown = [faces.percent(each) for each in (scores[0], max(scores), scores[-1])] if scores else ["-"] * 3
        kind = "bundle" if task.kind == "distilled" else "own"
        classes = ", ".join(names[slot] for slot in task.slots)
        rows.append((str(number), f"{kind} {task.source}", classes, str(state.memory.held(task.digest)), *shown))
    lines = [faces.heading(title), "", faces.table(rows, numbers=(3, 4, 5, 6)), ""]
    accuracy = "-" if report.accuracy is None else faces.percent(report.accuracy)
    forgotten = "-" if report.forgetting is None else f"{100 * report.forgetting:.1f} points"
    return "\n".join([*lines, f"accuracy {accuracy} (mean over tasks), forgetting {forgotten}"])
