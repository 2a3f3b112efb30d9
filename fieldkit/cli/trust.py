"""``fieldkit trust``: whom this device trusts."""

from __future__ import annotations

from pathlib import Path

import click

from fieldkit.cli import faces, options


@click.group(
    epilog="\b\nExample:\n  fieldkit trust add hq.pub\n  fieldkit trust require 2\n  fieldkit trust lock",
)
def trust() -> None:
    """Say whose bundles this device takes.

    With the first key that is added, a bundle needs the signature of a trusted key.  Keys and policy lie in
    $XDG_CONFIG_HOME/fieldkit, or ~/.config/fieldkit.
    """


@trust.command(epilog="\b\nExample:\n  fieldkit trust add hq.pub")
@click.argument("pub", type=click.Path(path_type=Path))
@options.as_json
def add(pub: Path, as_json: bool) -> None:
    """Trust the public key in the file PUB.  Compare its id with what its owner tells you by another way."""
    from fieldkit.bundle.keys import read_public_key
    from fieldkit.field.trust.policy import TrustStore

    key = read_public_key(pub)
    new = TrustStore().add(key)
    if as_json:
        faces.print_json("trust-add", {"name": key.name, "id": key.id, "new": new})
    else:
        click.echo(f"{key.name}, {key.id}: {'trusted from now on' if new else 'was trusted already'}")


@trust.command("list", epilog="\b\nExample:\n  fieldkit trust list --json")
@options.as_json
def listing(as_json: bool) -> None:
    """Show the policy, the trusted and the revoked keys, and the newest serial of each bundle that was opened."""
    from fieldkit.field.trust.policy import TrustStore

    document = TrustStore().describe()
    if as_json:
        faces.print_json("trust-list", document)
        return
    if not document["exists"]:
        click.echo(f"{document['folder']}: no trust store; bundles are taken without a signature")
        return
    signatures = "1 trusted signature" if document["require"] == 1 else f"{document['require']} trusted signatures"
    state = "locked" if document["locked"] else "not locked"
    click.echo(f"{document['folder']}: a bundle needs {signatures}; {state}")
    rows = [("key", "id", ""), *((each["name"], each["id"], each["state"]) for each in document["keys"])]
    click.echo(f"\n{faces.table(rows)}")
    if document["seen"]:
        seen = [(faces.visible(name), str(serial)) for name, serial in document["seen"].items()]
        click.echo(f"\n{faces.table([('bundle', 'newest serial'), *seen], numbers=(1,))}")


@trust.command(epilog="\b\nExample:\n  fieldkit trust remove hq")
@click.argument("key")
@options.as_json
def remove(key: str, as_json: bool) -> None:
    """Trust KEY, a name or an id, no longer.  It may be added again; a lost or stolen one should be revoked."""
    from fieldkit.field.trust.policy import TrustStore

    removed = TrustStore().remove(key)
    if as_json:
        faces.print_json("trust-remove", {"name": removed.name, "id": removed.id})
    else:
        click.echo(f"{removed.name}, {removed.id}: not trusted any more")


@trust.command(epilog="\b\nExample:\n  fieldkit trust revoke hq\n  fieldkit trust revoke revoked.txt")
@click.argument("key")
@options.as_json
def revoke(key: str, as_json: bool) -> None:
    """Never count signatures of KEY again: a name, an id, or a file that lists ids, one on each line."""
    from fieldkit.field.trust.policy import TrustStore

    revoked = TrustStore().revoke(key)
    if as_json:
        faces.print_json("trust-revoke", {"new": list(revoked)})
    else:
        click.echo("\n".join(f"{each}: revoked for good" for each in revoked) or "nothing new: all revoked already")


@trust.command(epilog="\b\nExample:\n  fieldkit trust require 2")
@click.argument("count", type=click.IntRange(min=1))
@options.as_json
def require(count: int, as_json: bool) -> None:
    """Ask for signatures of COUNT different trusted keys on every bundle."""
    from fieldkit.field.trust.policy import TrustStore

    TrustStore().require(count)
    if as_json:
        faces.print_json("trust-require", {"require": count})
    else:
        click.echo(f"every bundle needs {count} trusted signature{'' if count == 1 else 's'}")


@trust.command(epilog="\b\nExample:\n  fieldkit trust lock")
@options.as_json
def lock(as_json: bool) -> None:
    """Never take a bundle without trusted signatures again, whatever the options.

    A lock is for good.  From then on keys can be revoked and more signatures asked for, and nothing else.
    """
    from fieldkit.field.trust.policy import TrustStore

    TrustStore().lock()
    if as_json:
        faces.print_json("trust-lock", {"locked": True})
    else:
        click.echo("locked: bundles without trusted signatures are never taken")


@trust.command(epilog="\b\nExample:\n  fieldkit trust forget mnist-10")
@click.argument("name")
@options.as_json
def forget(name: str, as_json: bool) -> None:
    """Take any serial of the bundle called NAME again, though a newer one was opened here."""
    from fieldkit.field.trust.policy import TrustStore

    seen = TrustStore().forget(name)
    if as_json:
        faces.print_json("trust-forget", {"name": name, "serial": seen.serial})
    else:
        click.echo(f"{faces.visible(name)}: serial {seen.serial} is forgotten")


@trust.command(epilog="\b\nExample:\n  fieldkit keygen device-7\n  fieldkit trust device device-7.key")
@click.argument("key", type=click.Path(path_type=Path))
@options.as_json
def device(key: Path, as_json: bool) -> None:
    """Keep a copy of the private key in the file KEY as this device's own: with it, encrypted bundles open."""
    from fieldkit.bundle.keys import read_private_key
    from fieldkit.field.trust.policy import TrustStore

    own = read_private_key(key, options.ask_passphrase)
    kept = TrustStore().own(own, key)
    if as_json:
        faces.print_json("trust-device", {"file": str(kept), "id": own.public().id})
    else:
        click.echo(f"{kept}: the device's own key, {own.public().id}")
