"""The ``potstill`` command; ``client.cli`` is its entry point."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from client import datasets_cli, jobs_cli, keys_cli
from client.configuration import KEY_VARIABLE, URL_VARIABLE, Connection, save_connection
from client.console import out, print_error, print_json
from client.errors import ClientError
from client.sdk import Potstill

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=f"Potstill: distill vision transformers. {URL_VARIABLE} and {KEY_VARIABLE} override the saved login.",
)
app.add_typer(datasets_cli.app, name="datasets")
app.add_typer(jobs_cli.app, name="jobs")
app.add_typer(keys_cli.app, name="keys")


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
    with Potstill(connection.url, connection.api_key, max_retries=1) as potstill:
        potstill.methods()
    path = save_connection(connection)
    if as_json:
        print_json({"url": connection.url, "configuration": str(path)})
    else:
        out.print(f"Signed in to {connection.url}; saved in {path}", soft_wrap=True)


def main() -> None:
    """Run the command; print client errors as one message without a traceback."""
    try:
        app()
    except ClientError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(1)
    except BrokenPipeError:
        # The reader (`… | head`) has exited. Python must not flush buffered output into the broken pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
