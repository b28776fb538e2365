"""``potstill keys``."""

from __future__ import annotations

from typing import Annotated

import typer

from client.configuration import connect
from client.console import key_table, out, print_json, shown
from client.documents import ApiKey

app = typer.Typer(no_args_is_help=True, help="API keys of your project; needs a key with the scope admin.")

AsJson = Annotated[bool, typer.Option("--json", help="Print the documents as JSON.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scopes: Annotated[str, typer.Option(help="Comma-separated: read, write, admin.")] = "read,write",
    days: Annotated[float | None, typer.Option(help="For how long it is good. Default: for ever.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make a key and show its token, this once."""
    asked = [scope.strip() for scope in scopes.split(",")]
    with connect() as potstill:
        made = potstill.keys.create(name, scopes=asked, expires_in_days=days)
    _show(made, as_json=as_json)


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """The keys, newest first, revoked ones included."""
    with connect() as potstill:
        keys = list(potstill.keys.list())
    if as_json:
        print_json(keys)
    else:
        out.print(key_table(keys))


@app.command("revoke")
def revoke(key_id: Annotated[str, typer.Argument(help="`key_…`, as listed.")]) -> None:
    """End a key, at once and for good."""
    with connect() as potstill:
        potstill.keys.revoke(key_id)
    out.print(f"{key_id} is revoked")


@app.command("rotate")
def rotate(
    key_id: Annotated[str, typer.Argument(help="`key_…`, as listed.")],
    overlap_seconds: Annotated[
        int | None, typer.Option(min=0, help="For how long the old key stays good. Default: a day.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Replace a key by a new one and show its token, this once."""
    with connect() as potstill:
        made = potstill.keys.rotate(key_id, overlap_seconds=overlap_seconds)
    _show(made, as_json=as_json)


def _show(made: ApiKey, *, as_json: bool) -> None:
    if as_json:
        print_json(made)
        return
    out.print(f"[bold]{made['id']}[/]  {shown(made['name'])}  {', '.join(made['scopes'])}")
    if made["replaces"]:
        out.print(f"  it replaces {made['replaces']}")
    print(made["token"])  # alone on its line, untouched by width and colour
