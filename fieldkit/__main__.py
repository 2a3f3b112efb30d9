"""``python -m fieldkit``: the command line."""

from fieldkit.cli.main import main

main()
