"""``fieldkit predict``: classes of image files."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fieldkit.cli import faces, options
from fieldkit.errors import UsageError

if TYPE_CHECKING:
    from fieldkit.field.answers.answers import Answer, Asking, Tally
    from fieldkit.field.answers.records import Record


@click.command(
    epilog="\b\nExamples:\n  fieldkit predict model.onnx photo.png\n"
    "  fieldkit predict model.onnx photos/ -o answers.csv\n"
    "  fieldkit predict model.onnx --watch incoming/ -o answers.jsonl"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--watch",
    "folder",
    type=click.Path(path_type=Path),
    help="After IMAGES, answer the files in this folder, and go on with those that arrive, until Ctrl-C.",
)
@click.option(
    "--idle", type=click.FloatRange(min=0), help="With --watch: end after so many seconds without a new file."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "jsonl", "csv"]),
    help="Of the lines, which are written as the answers come.  [default: what -o is called, else table]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File for the lines, in place of stdout.  It appears when all is done; with --watch, lines are added to it.",
)
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="Classes that an answer names.")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="Probability below which an answer is uncertain.  [default: the model's own]",
)
@click.option(
    "--resize",
    type=click.Choice(["stretch", "crop"]),
    help="Bring images of another size to the model's: the whole, or the largest part around the middle.",
)
@click.option("--batch", type=click.IntRange(1, 65536), default=32, show_default=True, help="Images run at a time.")
@options.provider
@options.threads
@options.as_json
@options.quiet
def predict(model: Path, images: tuple[Path, ...], **given: Any) -> None:
    """Print the most probable class of each image: in files, and in folders with all that is below them.

    IMAGES are PNG, JPEG, TIFF (of any number of bands) and BMP files, and npy or npz files with one image or a stack.
    A line has the file's name, the class and its probability, separated by tabs, and the word "uncertain" if that is
    below the threshold that was found on the bundle's probe when the model was trained.

    Files that MODEL cannot take do not stop the run; they are listed at the end, and the exit code is then 7.  --json
    holds all answers in memory until the end; the formats of --format do not.
    """
    from fieldkit.field.answers.answers import Asking, Tally, predict_files
    from fieldkit.field.answers.arrivals import groups
    from fieldkit.field.models.prediction import Predictor

    _check(model, images, **given)
    predictor = Predictor.open(model, given["threads"])
    asking = Asking(given["batch"], min(given["top"], len(predictor.classes)), given["threshold"], given["resize"])
    tally = Tally()
    with _record(asking, **given) as record, _progress(images, **given) as show, _until_stopped(given["folder"]):
        for files in groups(images, given["folder"], given["idle"]):
            for answer in predict_files(predictor, files, asking):
                tally.add(answer)
                record.add(answer)
                show(tally)
            record.sync()
    if isinstance(record, _Document):
        document = {"model": str(model), "threshold": asking.threshold_for(predictor), "images": record.answers}
        faces.print_json("predict", document)
    _note(tally, given["output"], given["quiet"])
    if tally.failed:
        raise tally.refusal()


class _Document:
    """Holds all answers, for --json."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any]] = []

    def add(self, answer: Answer) -> None:
        self.answers.append(answer.to_json())

    def sync(self) -> None:
        """Nothing is written until the end."""


def _check(model: Path, images: tuple[Path, ...], **given: Any) -> None:
    """Refuse options that contradict each other, and a file for the answers that is something else."""
    from fieldkit.field.images.finding import SUFFIXES

    if not images and given["folder"] is None:
        raise UsageError("nothing to predict", remedy="name image files or folders, or a folder to --watch")
    if given["idle"] is not None and given["folder"] is None:
        raise UsageError("--idle says when to stop watching", remedy="name the folder to --watch")
    output = given["output"]
    if output is not None and (output.suffix.lower() in SUFFIXES or output.resolve() == model.resolve()):
        what = "the model" if output.resolve() == model.resolve() else "an image, by its name"
        raise UsageError(f"the answers would replace {what}", where=output, remedy="name another file with -o")
    if given["as_json"]:
        for name, value in (("--format", given["form"]), ("-o", output), ("--watch", given["folder"])):
            if value is not None:
                raise UsageError(
                    f"--json prints one document on stdout at the end, which does not go with {name}",
                    remedy="take --format jsonl in place of --json",
                )


def _record(asking: Asking, **given: Any) -> AbstractContextManager[Record | _Document]:
    """Where the answers go."""
    from fieldkit.field.answers import records

    if given["as_json"]:
        return nullcontext(_Document())
    output = given["output"]
    form = given["form"] or records.format_of(output)
    if output is None:
        return nullcontext(records.stream_record(sys.stdout.buffer, form, asking.top))
    if given["folder"] is None:
        return records.new_record(output, form, asking.top)
    return records.continued_record(output, form, asking.top)


@contextmanager
def _progress(images: tuple[Path, ...], **given: Any) -> Iterator[Callable[[Tally], None]]:
    """Progress by files, unless the answers themselves are to be seen; of a watched folder there is none."""
    from fieldkit.field.images.finding import find_images

    seen = not (given["as_json"] or given["output"] or stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode))
    if given["quiet"] or seen or given["folder"] is not None:
        yield lambda tally: None
        return
    count = sum(1 for _ in find_images(images))
    with faces.Progress("predicting", "files") as progress:
        yield lambda tally: progress(tally.files, count, f"{tally.uncertain} uncertain" if tally.uncertain else "")


@contextmanager
def _until_stopped(folder: Path | None) -> Iterator[None]:
    """Watching goes on until Ctrl-C or a service manager's SIGTERM, which is no failure."""
    if folder is None:
        yield
        return
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, former)


def _note(tally: Tally, output: Path | None, quiet: bool) -> None:
    """What was done, where the answers do not show it."""
    if output is None and not tally.uncertain:
        return
    place = "" if output is None else f"{output}: "
    uncertain = f", {tally.uncertain} of them uncertain" if tally.uncertain else ""
    faces.print_note(f"{place}{tally.images} images answered{uncertain}", quiet)
