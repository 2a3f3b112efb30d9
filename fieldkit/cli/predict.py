"""``fieldkit predict``: classes of image files."""

from __future__ import annotations

from pathlib import Path

import click

from fieldkit.cli import faces, options


@click.command(
    epilog="\b\nExample:\n  fieldkit predict model.onnx photo.png\n  fieldkit predict model.onnx photos/ --json"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.threads
@options.as_json
@options.quiet
def predict(model: Path, images: tuple[Path, ...], threads: int | None, as_json: bool, quiet: bool) -> None:
    """Print the most probable class of each image file, and of each image file in a folder.

    One line per file: its name, the class and its probability, separated by tabs.  Files that MODEL cannot take do not
    stop the run; they are listed at the end, and the exit code is then 7.
    """
    from fieldkit.field.answers import find_images, predict_files, refusal
    from fieldkit.field.prediction import Predictor

    predictor = Predictor.open(model, threads)
    files = find_images(images)
    answers, refused = [], []
    with faces.Progress("predicting", "files", quiet or not as_json) as progress:
        for done, answer in enumerate(predict_files(predictor, files), start=1):
            if answer.fault is not None:
                refused.append(answer)
            elif not as_json:
                click.echo(f"{answer.file}\t{answer.label}\t{answer.probability:.4f}")
            if as_json:
                answers.append(answer.to_json())
            progress(done, len(files))
    if as_json:
        faces.print_json("predict", {"model": str(model), "images": answers})
    if refused:
        raise refusal(refused, len(files))
