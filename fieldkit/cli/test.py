"""``fieldkit test``: a model's score on labelled data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fieldkit.cli import faces, options

if TYPE_CHECKING:
    from fieldkit.field.datasets import Dataset
    from fieldkit.field.models.scoring import Report

DIGITS = "digits"


@click.command(epilog="\b\nExample:\n  fieldkit test model.onnx mnist.h5\n  fieldkit test model.onnx photos/ --json")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data")
@options.threads
@options.provider
@options.as_json
@options.quiet
def test(model: Path, data: str, threads: int | None, as_json: bool, quiet: bool) -> None:
    """Score MODEL on the test split of DATA, or on all of it if it has none.

    DATA is an HDF5 or npz file with x_test and y_test beside x_train and y_train, a folder of images
    (test/CLASS/* beside train/CLASS/*, or CLASS/*), or the word digits.  Classes are joined by name.
    """
    from fieldkit.field.models.prediction import Predictor
    from fieldkit.field.models.scoring import score_dataset

    predictor = Predictor.open(model, threads)
    dataset = _load(data)
    with faces.Progress("testing", "images", quiet) as progress:
        report = score_dataset(predictor, dataset, progress)
    if as_json:
        faces.print_json("test", {"model": str(model), "data": data, **report.to_json()})
    else:
        click.echo(_text(report, data))


def _load(data: str) -> Dataset:
    """The data set at a path, or scikit-learn's digits, which only HQ has."""
    if data == DIGITS:
        from fieldkit.hq import sources

        return sources.load(data)
    from fieldkit.field.datasets import load_dataset

    return load_dataset(data, for_training=False)


def _text(report: Report, data: str) -> str:
    """The score and a line per class."""
    rows = [("class", "images", "right", "recall", "precision")]
    for name, each in zip(report.classes, report.scores.classes, strict=True):
        rows.append((name, str(each.support), str(each.correct), _share(each.recall), _share(each.precision)))
    title = faces.heading(f"{100 * report.scores.accuracy:.2f} % of {report.scores.count} images right")
    return f"{title} ({data}, {report.split} split)\n\n{faces.table(rows, numbers=(1, 2, 3, 4))}"


def _share(fraction: float | None) -> str:
    return "-" if fraction is None else faces.percent(fraction)
