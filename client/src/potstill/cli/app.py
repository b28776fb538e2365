"""The ``potstill`` command."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from potstill import __version__
from potstill._sync.client import Potstill
from potstill.cli import catalog, datasets, jobs, keys, mcp, models, service, sweeps, uploads, webhooks
from potstill.cli.console import out, print_error, print_json
from potstill.configuration import KEY_VARIABLE, URL_VARIABLE, Connection, save_connection
from potstill.errors import PotstillError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Potstill: distill vision transformers. {URL_VARIABLE} and {KEY_VARIABLE} override the saved login.",
)
app.add_typer(datasets.app, name="datasets")
app.add_typer(models.app, name="models")
app.add_typer(uploads.app, name="uploads")
app.add_typer(jobs.app, name="jobs")
app.add_typer(sweeps.app, name="sweeps")
catalog.register(app)
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")
service.register(app)
mcp.register(app)


def _print_version(requested: bool) -> None:  # noqa: FBT001 - typer's signature
    if requested:
        print(f"potstill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command("login")
def login(
    url: Annotated[str, typer.Option(prompt=True, help="URL of the service.")] = "http://127.0.0.1:8000",
    key: Annotated[
        str, typer.Option(prompt="API key", hide_input=True, help="API key (ps_…). Prompted for if omitted.")
    ] = "",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a service URL and an API key, and save them."""
    connection = Connection(url.strip().rstrip("/"), key.strip())
    with Potstill(connection.url, connection.api_key, max_retries=1) as client:
        client.methods.list()
    path = save_connection(connection)
    if as_json:
        print_json({"url": connection.url, "configuration": str(path)})
    else:
        out.print(f"Signed in to {connection.url}; saved in {path}", soft_wrap=True, markup=False)


def main() -> None:
    """Run the command; print errors as one message without a traceback."""
    try:
        app(prog_name="potstill")
    except PotstillError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(1)
    except BrokenPipeError:
        # The reader (`… | head`) has exited. Python must not flush buffered output into the broken pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # a local file or folder that cannot be read or written
        at = f"{error.filename}: " if error.filename else ""
        print_error(PotstillError(f"{at}{error.strerror or error}"), as_json="--json" in sys.argv)
        sys.exit(1)
