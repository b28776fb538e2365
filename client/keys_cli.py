"""``potstill keys``."""

from __future__ import annotations

from typing import Annotated

import typer

from client.configuration import connect
from client.console import escape_text, key_table, out, print_json
from client.documents import ApiKey

app = typer.Typer(no_args_is_help=True, help="Manage API keys of the project. Requires a key with the scope admin.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    scopes: Annotated[str, typer.Option(help="Comma-separated: read, write, admin.")] = "read,write",
    days: Annotated[float | None, typer.Option(help="Days until it expires. Default: never.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Create a key and print its token, which is shown only once."""
    requested_scopes = [scope.strip() for scope in scopes.split(",")]
    with connect() as potstill:
        key = potstill.keys.create(name, scopes=requested_scopes, expires_in_days=days)
    _show(key, as_json=as_json)


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """List the keys, newest first, including revoked ones."""
    with connect() as potstill:
        keys = list(potstill.keys.list())
    if as_json:
        print_json(keys)
    else:
        out.print(key_table(keys))


@app.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(help="Key id (`key_…`).")]) -> None:
    """Revoke a key immediately and permanently."""
    with connect() as potstill:
        potstill.keys.revoke(key_id)
    out.print(f"Revoked {key_id}")


@app.command("rotate")
def rotate(
    key_id: Annotated[str, typer.Argument(help="Key id (`key_…`).")],
    overlap_seconds: Annotated[
        int | None, typer.Option(min=0, help="Seconds until the old key expires. Default: a day.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Replace a key and print the new token, which is shown only once."""
    with connect() as potstill:
        key = potstill.keys.rotate(key_id, overlap_seconds=overlap_seconds)
    _show(key, as_json=as_json)


def _show(key: ApiKey, *, as_json: bool) -> None:
    if as_json:
        print_json(key)
        return
    out.print(f"[bold]{key['id']}[/]  {escape_text(key['name'])}  {', '.join(key['scopes'])}")
    if key["replaces"]:
        out.print(f"  replaces {key['replaces']}")
    print(key["token"])  # on its own line, without wrapping or colors
