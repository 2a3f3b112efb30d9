"""Options that several commands share."""

from __future__ import annotations

import click

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else on stdout.")
quiet = click.option("--quiet", is_flag=True, help="No progress on stderr.")
threads = click.option(
    "--threads", type=click.IntRange(min=1, max=1024), help="Processor threads to use.  [default: all of this process]"
)
