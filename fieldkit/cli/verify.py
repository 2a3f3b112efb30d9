"""``fieldkit verify``: whether a bundle comes from somebody who is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fieldkit.cli import faces, options

if TYPE_CHECKING:
    from fieldkit.field.trust.verification import Verdict


@click.command(
    epilog="\b\nExamples:\n  fieldkit verify mnist-10.h5\n"
    "  fieldkit verify mnist-10.h5 --require 2 --pub a.pub --pub b.pub"
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--require",
    type=click.IntRange(min=1),
    help="How many different trusted keys must have signed.  [default, and the least: what the device asks for]",
)
@click.option(
    "--pub",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Trust this public key, and none of the device's store; repeatable.",
)
@options.as_json
def verify(bundle: Path, require: int | None, keys: tuple[Path, ...], as_json: bool) -> None:
    """Tell whether BUNDLE, encrypted or not, is whole and signed by keys that this device trusts.

    Exit code 0: trusted.  3: not trusted.  4: damaged.  Nothing inside is parsed or decrypted.
    """
    from fieldkit.bundle.keys import read_public_key
    from fieldkit.field.trust.verification import verify_bundle

    verdict = verify_bundle(bundle, require=require, keys=[read_public_key(each) for each in keys])
    if as_json:
        faces.print_json("verify", {"file": str(bundle), **verdict.to_json()})
    elif verdict.refusal is None:
        click.echo(_text(bundle, verdict))
    if verdict.refusal is not None:
        raise verdict.refusal


def _text(bundle: Path, verdict: Verdict) -> str:
    kind = "encrypted, " if verdict.encrypted else ""
    lines = [f"{bundle}: trusted; {kind}{verdict.statement.name}, serial {verdict.statement.serial}"]
    return "\n".join([*lines, *(f"  {each}" for each in verdict.signers)])
