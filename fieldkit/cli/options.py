"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else on stdout.")
quiet = click.option("--quiet", is_flag=True, help="No progress on stderr.")
threads = click.option(
    "--threads", type=click.IntRange(min=1, max=1024), help="Processor threads to use.  [default: all of this process]"
)


def opening(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that opens a bundle takes, to be handed on: ``admission.open_bundle(bundle, **opening)``."""
    allow = click.option("--allow-unsigned", is_flag=True, help="Take a bundle that no trusted key signed.")
    key = click.option(
        "--key", type=click.Path(path_type=Path), help="This device's key, to decrypt BUNDLE.  [default: its own]"
    )
    return allow(key(command))
