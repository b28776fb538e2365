"""Entry point of the ``potstill`` command: names the packages that are not installed."""

from __future__ import annotations

import sys

_PACKAGES = frozenset({"httpx", "rich", "typer", "yaml"})  # of the extra `client`


def main() -> None:
    """Run the command. Without the packages of the extra ``client``, print what to install and exit with status 1."""
    try:
        from client.app import main as run  # late, so that a missing package is reported here
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        print(
            f'potstill: the package {error.name} is not installed; run pip install "potstill[client]"', file=sys.stderr
        )
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
