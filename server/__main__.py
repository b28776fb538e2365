"""``python -m server`` is ``potstill-server``."""

from server.cli import main

main()
