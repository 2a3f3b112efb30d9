"""``fieldkit export``: a smaller copy of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fieldkit.cli import faces, options
from fieldkit.cli.sizes import spelt

if TYPE_CHECKING:
    from fieldkit.field.compression.compression import Compressed


@click.command(
    epilog="\b\nExample:\n  fieldkit export model.onnx --int8 --bundle bundles/mnist-10.h5 -o small.onnx\n"
    "  fieldkit export model.onnx --fp16 --bundle bundles/mnist-10.h5"
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    required=True,
    help="The bundle that MODEL was trained from: its distilled set calibrates, its probe measures.",
)
@click.option("--int8", is_flag=True, help="Layers compute with 8 bits: a quarter of the size, and often faster.")
@click.option("--fp16", is_flag=True, help="Weights are stored with 16 bits: half of the size, as fast as before.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Model file.  [default: MODEL's name with -int8]")
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=1.0,
    show_default=True,
    help="Points of accuracy that the copy may cost at most; else it is refused.",
)
@options.opening
@options.provider
@options.threads
@options.as_json
@options.quiet
def export(
    model: Path,
    *,
    bundle: Path,
    int8: bool,
    fp16: bool,
    output: Path | None,
    max_drop: float,
    threads: int | None,
    as_json: bool,
    quiet: bool,
    **opening: Any,
) -> None:
    """Write a smaller copy of MODEL, and say what that costs.

    Model and copy are compared on the bundle's probe.  Without one, they are compared with each other on the distilled
    set, and a drop is the share of its images that the copy calls otherwise.  The copy is a plain ONNX file: fieldkit
    and stock ONNX Runtime take it like the model itself.
    """
    from fieldkit.bundle.atomic import check_apart, check_writable, write_atomically
    from fieldkit.field.compression import compression
    from fieldkit.field.trust.admission import open_bundle

    admitted = open_bundle(bundle, **opening)
    kinds = [name for name, asked in (("int8", int8), ("fp16", fp16)) if asked]
    target = output or model.with_name(f"{model.stem}-{'-'.join(kinds)}.onnx")
    check_writable(target)
    check_apart({"copy": target}, {"model": model, "bundle": bundle})
    made = compression.compress(model, admitted.bundle, int8=int8, fp16=fp16, max_drop=max_drop / 100, threads=threads)
    write_atomically(target, made.model)
    if not made.same_bundle:
        faces.print_note(f"{model} was trained from another bundle than {bundle}, or a newer issue of it", quiet)
    if as_json:
        faces.print_json("export", {"model": str(model), "bundle": str(bundle), "file": str(target), **made.to_json()})
    else:
        click.echo(f"{target}: {_changes(made)}")
        click.echo(_cost(made))


def _changes(made: Compressed) -> str:
    """Size and speed, before and after."""
    before, after = made.before, made.after
    parts = [f"{made.layers} layers of 8 bits"] if made.layers else []
    parts += [f"{made.halved} tensors of 16 bits"] if made.halved else []
    return (
        f"{', '.join(parts)}; {spelt(before.size)} to {spelt(after.size)} ({after.size / before.size:.2f}x), "
        f"{1e3 * before.speed.latency:.3g} ms to {1e3 * after.speed.latency:.3g} ms for one image "
        f"({after.speed.latency / before.speed.latency:.2f}x)"
    )


def _cost(made: Compressed) -> str:
    """What became of the accuracy."""
    agreement = f"the same class for {faces.percent(made.agreement)} of {made.distilled} distilled images"
    before, after = made.before.accuracy, made.after.accuracy
    if before is None or after is None:
        return f"no probe in the bundle, so accuracy was not measured; {agreement}"
    return f"probe: {faces.percent(before)} before, {faces.percent(after)} after, of {made.probe} images; {agreement}"
