"""``potstill keys``."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from potstill._sync.client import Potstill
from potstill.cli.console import out, print_json, print_removed
from potstill.cli.options import AsJson, KeyId, connect, find_one
from potstill.cli.tables import Column, print_table, status_text
from potstill.documents import ApiKey, NewApiKey
from potstill.formats import escape_text, format_age

app = typer.Typer(no_args_is_help=True, help="Manage API keys of the project. Requires a key with the scope admin.")

_FULL_ID = re.compile("key_[0-9a-z]{26}")
_COLUMNS = (
    Column("key"),
    Column("name", wraps=True),
    Column("scopes", wraps=True),
    Column("last used", optional=1),
    Column("state", wraps=True),
)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the key.")],
    scopes: Annotated[str, typer.Option(help="Comma-separated: read, write, admin.")] = "read,write",
    days: Annotated[float | None, typer.Option(help="Days until it expires. Default: never.")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Create a key and print its token, which is shown only once."""
    requested_scopes = [scope.strip() for scope in scopes.split(",")]
    with connect() as client:
        key = client.keys.create(name, scopes=requested_scopes, expires_in_days=days)
    _show_new(key, as_json=as_json)


@app.command("list")
def list_keys(*, as_json: AsJson = False) -> None:
    """List the keys, newest first, including revoked ones."""
    with connect() as client:
        keys = list(client.keys.list())
    if as_json:
        print_json(keys)
    else:
        _print_keys(keys)


@app.command("show")
def show(key_id: KeyId, *, as_json: AsJson = False) -> None:
    """Show one key, without its token."""
    with connect() as client:
        key = client.keys.get(find_key_id(client, key_id))
    if as_json:
        print_json(key)
    else:
        _print_keys([key])


@app.command("revoke")
def revoke(key_id: KeyId, *, as_json: AsJson = False) -> None:
    """Revoke a key immediately and permanently."""
    with connect() as client:
        found = find_key_id(client, key_id)
        client.keys.revoke(found)
    print_removed(found, f"Revoked {found}", as_json=as_json)


@app.command("rotate")
def rotate(
    key_id: KeyId,
    overlap_seconds: Annotated[
        int | None, typer.Option(min=0, help="Seconds until the old key expires. Default: a day.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Replace a key and print the new token, which is shown only once."""
    with connect() as client:
        key = client.keys.rotate(find_key_id(client, key_id), overlap_seconds=overlap_seconds)
    _show_new(key, as_json=as_json)


def find_key_id(client: Potstill, text: str) -> str:
    """Return the id of the key with this id, unique name or unique id prefix."""
    if _FULL_ID.fullmatch(text):
        return text
    return find_one(text, "key", client.keys.list(), lambda key: (key.id, key.name)).id


def _show_new(key: NewApiKey, *, as_json: bool) -> None:
    if as_json:
        print_json(key)
        return
    out.print(f"[bold]{key.id}[/]  {escape_text(key.name)}  {', '.join(key.scopes)}")
    if key.replaces:
        out.print(f"  replaces {key.replaces}")
    print(key.token)  # on its own line, without wrapping or colors


def _print_keys(keys: list[ApiKey]) -> None:
    rows = []
    for key in keys:
        last_used = format_age(key.last_used_at) if key.last_used_at else "never"
        rows.append((key.id, key.name, ", ".join(key.scopes), last_used, status_text(_state(key))))
    print_table(_COLUMNS, rows)


def _state(key: ApiKey) -> str:
    if key.revoked_at:
        return f"revoked {format_age(key.revoked_at)}"
    if key.expires_at is None:
        return "active"
    if key.expires_at <= datetime.now(UTC):
        return f"expired {format_age(key.expires_at)}"
    return f"active until {key.expires_at:%Y-%m-%d}"
