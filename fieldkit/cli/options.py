"""Options that several commands share."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fieldkit.cli import faces
from fieldkit.cli.sizes import SIZE
from fieldkit.errors import UsageError

PASSPHRASE = "FIELDKIT_PASSPHRASE"

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else on stdout.")
quiet = click.option("--quiet", is_flag=True, help="No progress on stderr.")
threads = click.option(
    "--threads", type=click.IntRange(min=1, max=1024), help="Processor threads to use.  [default: all of this process]"
)


def _use_provider(context: click.Context, option: click.Parameter, value: str | None) -> None:
    if value is not None:
        from fieldkit.field.engine.providers import use_provider

        note = use_provider(value)
        if note is not None:
            faces.print_note(note)


def _be_nice(context: click.Context, option: click.Parameter, value: int | None) -> None:
    if value is not None:
        from fieldkit.field.device.description import be_nice

        be_nice(value)


provider = click.option(
    "--provider",
    type=click.Choice(["cpu", "cuda", "tensorrt", "auto"]),
    callback=_use_provider,
    expose_value=False,
    help="What runs the programs; where it does not work, the CPU does.  [default: cpu]",
)


def conditions(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every command that trains takes; it is called with ``conditions``, a ``mission.Conditions``."""

    @functools.wraps(command)
    def called(threads: int | None, every: float, **given: Any) -> Any:
        from fieldkit.field.endurance.mission import Conditions

        mine = {name: given.pop(name) for name in ("minutes", "max_memory", "max_temp", "fresh", "log")}
        made = Conditions(threads=threads, every=every, tell=faces.print_note, **mine)
        return command(conditions=made, **given)

    for option in reversed(_CONDITIONS):
        called = option(called)
    return called


_CONDITIONS = (
    threads,
    provider,
    click.option(
        "--minutes",
        type=click.FloatRange(min=0, min_open=True),
        help="Be done within this time: fewer steps, where all would take longer.",
    ),
    click.option("--max-memory", type=SIZE, metavar="SIZE", help="Hold no more memory than this, such as 200MB."),
    click.option("--max-temp", type=float, metavar="CELSIUS", help="Pause while the device is hotter than this."),
    click.option(
        "--nice",
        type=click.IntRange(0, 19),
        callback=_be_nice,
        expose_value=False,
        help="Leave the processor to others; 19 is nicest.",
    ),
    click.option(
        "--save-every",
        "every",
        type=click.FloatRange(min=0.0),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How often the state is saved, from which the same command goes on after a loss of power.",
    ),
    click.option("--fresh", is_flag=True, help="Begin anew, even if there is a saved state of this training."),
    click.option(
        "--log", type=click.Path(path_type=Path), help="Append a JSON line each second: step, loss, temperature, power."
    ),
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


def beside(bundle: Path, suffix: str) -> Path:
    """The bundle's path with another suffix.  Raises UsageError for one without a name, such as the current folder."""
    if not bundle.name:
        raise UsageError("not a bundle", where=bundle, found="a folder", remedy="name the file itself")
    return bundle.with_suffix(suffix)


def ask_passphrase(name: str, new: bool = False) -> str:
    """The passphrase of the key of this name: FIELDKIT_PASSPHRASE, or what the user types, twice for a new key."""
    given = os.environ.get(PASSPHRASE)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError("the key has a passphrase, and nobody can be asked", where=name, remedy=f"set {PASSPHRASE}")
    return str(click.prompt(f"passphrase of {name}", hide_input=True, err=True, confirmation_prompt=new))
