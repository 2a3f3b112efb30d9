"""``fieldkit sign``: a signature into a bundle."""

from __future__ import annotations

from pathlib import Path

import click

from fieldkit.cli import options
from fieldkit.cli.faces import print_json


@click.command(epilog="\b\nExample:\n  fieldkit sign mnist-10.h5 --key hq.key")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Private key of fieldkit keygen.")
@options.as_json
def sign(bundle: Path, key: Path, as_json: bool) -> None:
    """Sign BUNDLE, encrypted or not, in place.  Several may sign it, in any order; its digest stays the same."""
    from fieldkit.bundle.keys import key_id, read_private_key
    from fieldkit.field.trust.sealing import sign_bundle

    private = read_private_key(key, options.ask_passphrase)
    seal = sign_bundle(bundle, private)
    statement, signers = seal.statement, [key_id(each) for each in seal.signers]
    if as_json:
        document = {"file": str(bundle), "name": statement.name, "serial": statement.serial, "signers": signers}
        print_json("sign", {**document, "id": private.public().id})
    else:
        count = "1 signature" if len(signers) == 1 else f"{len(signers)} signatures"
        click.echo(f"{bundle}: {statement.name}, serial {statement.serial}, {count}; signed by {private.public().id}")
