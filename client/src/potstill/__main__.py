"""``python -m potstill``: the command line."""

from potstill.cli.app import main

main()
