"""Options that several commands share."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fieldkit.errors import UsageError

PASSPHRASE = "FIELDKIT_PASSPHRASE"

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else on stdout.")
quiet = click.option("--quiet", is_flag=True, help="No progress on stderr.")
threads = click.option(
    "--threads", type=click.IntRange(min=1, max=1024), help="Processor threads to use.  [default: all of this process]"
)


def opening(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that opens a bundle takes, to be handed on: ``admission.open_bundle(bundle, **opening)``."""

    @functools.wraps(command)
    def called(**options: Any) -> Any:
        return command(**options, passphrase=ask_passphrase)

    allow = click.option(
        "--allow-unsigned",
        is_flag=True,
        help="Take BUNDLE even if no key that this device trusts signed it.  A locked device never does.",
    )
    key = click.option(
        "--key",
        type=click.Path(path_type=Path),
        help="Private key to decrypt BUNDLE with, if it is encrypted.  [default: the device's own]",
    )
    return allow(key(called))


def ask_passphrase(name: str, new: bool = False) -> str:
    """The passphrase of the key of this name: FIELDKIT_PASSPHRASE, or what the user types, twice for a new key."""
    given = os.environ.get(PASSPHRASE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError("the key has a passphrase, and nobody can be asked", where=name, remedy=f"set {PASSPHRASE}")
    return str(click.prompt(f"passphrase of {name}", hide_input=True, err=True, confirmation_prompt=new))
