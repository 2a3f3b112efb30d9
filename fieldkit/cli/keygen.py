"""``fieldkit keygen``: a key pair of a person or a device."""

from __future__ import annotations

from pathlib import Path

import click

from fieldkit.cli import options
from fieldkit.cli.faces import print_json


@click.command(epilog="\b\nExample:\n  fieldkit keygen hq --passphrase\n  fieldkit keygen device-7")
@click.argument("name")
@click.option(
    "--passphrase",
    is_flag=True,
    help=f"Encrypt the private key; the passphrase is asked for, or taken from {options.PASSPHRASE}.",
)
@options.as_json
def keygen(name: str, passphrase: bool, as_json: bool) -> None:
    """Make a key pair and write NAME.key and NAME.pub into the current folder.

    NAME.key signs bundles and decrypts what was encrypted for it: keep it to yourself.  NAME.pub is for everyone else;
    what it is called by is its id, which whoever gets it should compare with yours by another way.
    """
    from fieldkit.bundle.keys import PrivateKey, write_key_pair

    secret = options.ask_passphrase(name, new=True) if passphrase else None
    key = PrivateKey.generate(name)
    private, public = write_key_pair(Path(), key, secret)
    if as_json:
        print_json("keygen", {"name": name, "id": key.public().id, "private": str(private), "public": str(public)})
    else:
        click.echo(f"{private}: keep it to yourself\n{public}: give it away\nid: {key.public().id}")
