"""``fieldkit doctor``: what this device is, how fast it is, and which recipes fit it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fieldkit.cli import faces, options
from fieldkit.cli.sizes import spelt

if TYPE_CHECKING:
    from fieldkit.field.device.description import Device
    from fieldkit.field.measurement.benchmark import Measurement


@click.command(epilog="\b\nExample:\n  fieldkit doctor\n  fieldkit doctor bundles/mnist-10.h5 bundles/mstar-10.h5")
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long the device is measured, and each recipe of BUNDLES a fifth of it.",
)
@options.opening
@options.threads
@options.provider
@options.as_json
@options.quiet
def doctor(
    bundles: tuple[Path, ...], seconds: float, threads: int | None, as_json: bool, quiet: bool, **opening: Any
) -> None:
    """Tell what this device is and how fast it trains and predicts, and which recipes of BUNDLES fit it.

    The speed is that of a small network, the same on every device: convnet of width 32, 3x32x32 pixels, 32 images.
    """
    from fieldkit.field.measurement.diagnosis import SHARE, diagnose

    with faces.Progress("measuring", "recipes", quiet) as progress:
        found = diagnose(bundles, seconds, threads, lambda done, total, name: progress(done, total, name), **opening)
    if as_json:
        faces.print_json("doctor", found.to_json())
        return
    click.echo(_device(found.device))
    click.echo(_speed(found.speed))
    for file, recipes in found.recipes.items():
        click.echo(f"\n{faces.heading(file)}\n{_recipes(recipes, found.device)}")
    if found.recipes:
        click.echo(f"\neach recipe was measured for {faces.duration(seconds * SHARE)}; fieldkit bench says more")


def _device(device: Device) -> str:
    reading, unread = device.reading, "not readable here"
    processors = f"{device.threads} of {device.processors} processors usable"
    modes = [f"mode {device.power_mode}"] if device.power_mode else []
    modes += [f"governor {device.governor}"] if device.governor else []
    watts = unread if reading.watts is None else f"{reading.watts:.1f} W ({device.power_source})"
    if reading.watts is None and device.power_source is not None:
        watts = f"readable while it works ({device.power_source})"
    rows = [
        ("processor", f"{device.processor}, {device.architecture}, {processors}"),
        ("sets", " ".join(device.instruction_sets) or unread),
        ("memory", _free(device.memory_free, device.memory)),
        ("disk", unread if device.disk_free is None else f"{spelt(device.disk_free)} free here"),
        ("heat", unread if reading.celsius is None else f"{reading.celsius:.0f} Celsius"),
        ("power", ", ".join([watts, *modes])),
        ("software", f"fieldkit {device.fieldkit}, Python {device.python}, {device.system}"),
        ("runtime", f"onnxruntime {device.onnxruntime}, providers {', '.join(device.providers)}"),
    ]
    return "\n".join(f"{name:9}  {faces.visible(value)}" for name, value in rows)


def _free(free: int | None, whole: int | None) -> str:
    if free is None or whole is None:
        return "not readable here"
    return f"{spelt(whole)}, of which {spelt(free)} are free"


def _speed(speed: Measurement) -> str:
    if speed.training is None or speed.inference is None:
        return f"speed      not measured: {speed.fault}"
    trained = f"{speed.training.batch / speed.training.step:,.0f} images/s"
    return f"training   {trained}\ninference  {speed.inference.rate:,.0f} images/s"


def _recipes(recipes: tuple[Measurement, ...], device: Device) -> str:
    """A line for each recipe."""
    rows = [("recipe", "training", "memory", "one image", "fits")]
    for each in recipes:
        misfits = each.misfits(device)
        if each.training is None or each.inference is None or each.seconds is None:
            rows.append((each.recipe.name, "-", "-", "-", f"no: {'; '.join(misfits)}"))
            continue
        latency = f"{1e3 * each.inference.latency:.2f} ms"
        verdict = f"no: {'; '.join(misfits)}" if misfits else "yes"
        rows.append((each.recipe.name, faces.duration(each.seconds), spelt(each.training.process), latency, verdict))
    return faces.table(rows, numbers=(1, 2, 3))
