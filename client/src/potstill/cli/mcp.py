"""``potstill mcp``."""

from __future__ import annotations

from typing import Annotated

import typer

from potstill._async.client import AsyncPotstill
from potstill.errors import PackageMissing


def register(app: typer.Typer) -> None:
    """Add the command to the top level."""
    app.command("mcp")(mcp)


def mcp(
    *,
    allow_writes: Annotated[
        bool, typer.Option("--allow-writes", help="Also offer the tools that submit and change jobs and write files.")
    ] = False,
) -> None:
    """Serve the Model Context Protocol on standard input and output, for agents."""
    try:
        from potstill.mcp_server import build_server  # late: an optional package
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "mcp":
            raise
        raise PackageMissing("mcp is not installed; run: pip install 'potstill[mcp]'") from error
    build_server(AsyncPotstill(), allow_writes=allow_writes).run()
