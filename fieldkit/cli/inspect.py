"""``fieldkit inspect``: what a bundle holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from fieldkit.cli import faces, options
from fieldkit.cli import provenance as origin

LISTED_CLASSES = 12


@click.command(epilog="\b\nExample:\n  fieldkit inspect bundles/mnist-10.h5 --sheet sheet.png")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Write a contact sheet of the distilled images (.png or .jpg)."
)
@click.option("--provenance", is_flag=True, help="Show how the bundle was made, and the libraries that made it.")
@options.opening
@options.as_json
def inspect(bundle: Path, sheet: Path | None, provenance: bool, as_json: bool, **opening: Any) -> None:
    """Show what BUNDLE holds: its data, its recipes, what HQ measured, and the size of each part."""
    from fieldkit.field.inspection.inspecting import inspect_bundle

    document = inspect_bundle(bundle, sheet=sheet, provenance=provenance, **opening)
    if as_json:
        faces.print_json("inspect", document)
    else:
        click.echo(_text(document))


def _text(document: Mapping[str, Any]) -> str:
    """The document for people."""
    sections = [
        faces.heading(f"{document['name']}  ({document['file']}, {document['bytes']:,} bytes)"),
        _identity(document),
        *(_recipe(each) for each in document["recipes"]),
        _parts(document),
        *([origin.text(document)] if "statement" in document else []),
    ]
    return "\n\n".join(sections)


def _identity(document: Mapping[str, Any]) -> str:
    _, height, width = document["input_shape"]
    radiometry, distilled, classes = document["radiometry"], document["distilled"], document["classes"]
    listed = ", ".join(classes[:LISTED_CLASSES]) + (" ..." if len(classes) > LISTED_CLASSES else "")
    spare = f"; room for {document['spare_classes']} more" if document["spare_classes"] else ""
    probe = document["probe"]
    rows = [
        ("serial", str(document["serial"])),
        ("signed by", ", ".join(document["trusted_signers"]) or "nobody whom this device trusts"),
        ("digest", document["digest"]),
        ("logical digest", document["logical_digest"]),
        ("task", document["task"]),
        ("classes", f"{len(classes)}: {listed}{spare}"),
        ("images", f"{height} x {width}, {radiometry['dtype']}, bands {', '.join(radiometry['bands'])}"),
        ("distilled", f"{distilled['images']} images, strongest label {distilled['strongest_label']:.2f} on average"),
        ("method", _pairs(document["method"])),
        ("probe", "none" if probe is None else f"{probe['images']} labelled images"),
        ("licence", document["licence"] or "not said"),
        ("provenance", _pairs(document["provenance"]) or "not said"),
        ("statement", origin.VERDICTS[document["attested"]]),
    ]
    return _listed(rows)


def _recipe(recipe: Mapping[str, Any]) -> str:
    schedule = recipe["schedule"]
    rate = "listed rates" if schedule["kind"] == "listed" else f"{schedule['kind']} rate {schedule['rate']:g}"
    rows = [
        ("architecture", _pairs(recipe["architecture"])),
        ("parameters", f"{recipe['parameters']:,}"),
        ("schedule", f"{schedule['steps']} steps of {schedule['batch']} images, {rate}"),
        ("augmentation", _pairs(recipe["augmentation"]) or "none"),
        (
            "initial",
            "fixed: every training starts the same" if recipe["initial"] == "fixed" else "random: drawn by seed",
        ),
    ]
    for split, each in sorted(recipe["expectations"].items()):
        rows.append((faces.in_line(split), f"{_score(each)} over {each['seeds']} seeds, {each['samples']} images"))
    return f"{faces.heading('recipe ' + recipe['name'])}\n{_listed(rows)}"


def _score(expected: Mapping[str, Any]) -> str:
    spread = f"{100 * expected['mean']:.1f} +- {faces.percent(expected['std'])}"
    return f"{spread} ({100 * expected['low']:.1f}-{100 * expected['high']:.1f})"


def _parts(document: Mapping[str, Any]) -> str:
    rows = [("part", "bytes"), *((path, f"{size:,}") for path, size in document["parts"].items())]
    rest = document["bytes"] - sum(document["parts"].values())
    return faces.table(
        [*rows, ("seal and file structure", f"{rest:,}"), ("file", f"{document['bytes']:,}")], numbers=(1,)
    )


def _listed(rows: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name.ljust(width)}  {faces.in_line(value)}" for name, value in rows)


def _pairs(document: Mapping[str, Any]) -> str:
    """A small JSON object in one line, its name first; objects inside it stand in brackets, empty ones are left out."""
    words = [str(document["name"])] if "name" in document else []
    for key, value in document.items():
        if isinstance(value, Mapping):
            words += [f"{key} ({_pairs(value)})"] if value else []
        elif key != "name":
            words.append(f"{key} {value}")
    return ", ".join(words)
