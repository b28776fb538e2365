"""The ``potstill`` command."""

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
    help=f"Potstill: distil vision transformers. {URL_VARIABLE} and {KEY_VARIABLE} win over what `login` kept.",
)
app.add_typer(datasets_cli.app, name="datasets")
app.add_typer(jobs_cli.app, name="jobs")
app.add_typer(keys_cli.app, name="keys")


@app.command("login")
def login(
    url: Annotated[str, typer.Option(prompt=True, help="Where the service is.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(prompt="API key", hide_input=True, help="ps_…; asked for if left out.")] = "",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Keep the service's address and a key for later calls, after trying them."""
    connection = Connection(url.strip().rstrip("/"), key.strip())
    with Potstill(connection.url, connection.api_key, max_retries=1) as potstill:
        potstill.methods()
    path = save_connection(connection)
    if as_json:
        print_json({"url": connection.url, "configuration": str(path)})
    else:
        out.print(f"Signed in to {connection.url}; kept in {path}", soft_wrap=True)


def main() -> None:
    """Run the command; an error that the service or the network gave is one message, not a traceback."""
    try:
        app()
    except ClientError as error:
        print_error(error, as_json="--json" in sys.argv)
        sys.exit(1)
    except BrokenPipeError:
        # The reader (`… | head`) went away. What is still buffered must not be flushed into the broken pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
