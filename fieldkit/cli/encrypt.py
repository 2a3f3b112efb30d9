"""``fieldkit encrypt``: a bundle that only chosen devices can read."""

from __future__ import annotations

from pathlib import Path

import click

from fieldkit.cli import options
from fieldkit.cli.faces import print_json


@click.command(epilog="\b\nExample:\n  fieldkit encrypt mnist-10.h5 --to device-7.pub --key hq.key")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "recipients",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Public key of a device that may read it; repeatable.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: BUNDLE's name with .sealed]"
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="Private key to sign the result with; fieldkit sign does it later, or once more.",
)
@options.as_json
def encrypt(bundle: Path, recipients: tuple[Path, ...], output: Path | None, key: Path | None, as_json: bool) -> None:
    """Encrypt BUNDLE so that only the devices named by --to can read it.

    A device checks the signature on the encrypted file before it decrypts anything; signatures on BUNDLE itself stay
    inside.  Name, serial and size can be seen from outside.
    """
    from fieldkit.bundle.keys import read_private_key, read_public_key
    from fieldkit.field.trust.sealing import encrypt_bundle

    devices = [read_public_key(each) for each in recipients]
    signer = None if key is None else read_private_key(key, options.ask_passphrase)
    target = output or options.beside(bundle, ".sealed")
    seal = encrypt_bundle(bundle, target, devices, signer)
    if as_json:
        document = {"file": str(target), "name": seal.statement.name, "serial": seal.statement.serial}
        print_json("encrypt", {**document, "to": [each.id for each in devices], "signed": signer is not None})
        return
    names = ", ".join(each.name for each in devices)
    click.echo(f"{target}: {seal.statement.name}, serial {seal.statement.serial}, for {names}")
    if signer is None:
        click.echo(f"not signed yet: fieldkit sign {target} --key NAME.key")
