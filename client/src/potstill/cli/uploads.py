"""``potstill uploads``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from potstill._sync.client import Potstill
from potstill.cli.console import out, print_json, print_removed
from potstill.cli.options import AsJson, Limit, connect, find_one
from potstill.cli.tables import Column, print_table, status_text
from potstill.documents import Upload
from potstill.formats import escape_text, format_age, format_bytes

app = typer.Typer(no_args_is_help=True, help="Files that are sent in parts; a dataset or model is made from each.")

UploadId = Annotated[
    str, typer.Argument(metavar="UPLOAD", help="Upload: its id (up_…), file name or unique id prefix.")
]

_COLUMNS = (
    Column("upload"),
    Column("file", wraps=True),
    Column("status"),
    Column("received", justify="right"),
    Column("size", justify="right"),
    Column("created", optional=1),
)


@app.command("send")
def send(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file.")],
    *,
    direct: Annotated[bool, typer.Option("--direct", help="Send it to the service's bucket with one request.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send a file in parts. A broken upload resumes when the command is repeated."""
    with connect() as client:
        upload = client.uploads.send_direct(file) if direct else client.uploads.send(file, progress=True)
    _print([upload], as_json=as_json)


@app.command("list")
def list_uploads(limit: Limit = 20, *, as_json: AsJson = False) -> None:
    """List the uploads, newest first."""
    with connect() as client:
        uploads = list(client.uploads.list(limit=limit))
    _print(uploads, as_json=as_json)


@app.command("show")
def show(upload_id: UploadId, *, as_json: AsJson = False) -> None:
    """Show one upload."""
    with connect() as client:
        upload = client.uploads.get(find_upload_id(client, upload_id))
    _print([upload], as_json=as_json)


@app.command("delete")
def delete(upload_id: UploadId, *, as_json: AsJson = False) -> None:
    """Delete an upload."""
    with connect() as client:
        found = find_upload_id(client, upload_id)
        client.uploads.delete(found)
    print_removed(found, f"Deleted {found}", as_json=as_json)


@app.command("limits")
def limits(*, as_json: AsJson = False) -> None:
    """Show what the service accepts."""
    with connect() as client:
        found = client.uploads.limits()
    if as_json:
        print_json(asdict(found))
        return
    out.print(f"  largest file  {format_bytes(found.max_bytes)}")
    out.print(f"  protocol      tus {escape_text(found.version)}: {escape_text(', '.join(found.extensions))}")


def find_upload_id(client: Potstill, text: str) -> str:
    """Return the id of the upload with this id, unique file name or unique id prefix."""
    return find_one(text, "upload", client.uploads.list(), lambda each: (each.id, each.filename)).id


def _print(uploads: list[Upload], *, as_json: bool) -> None:
    if as_json:
        print_json(uploads)
        return
    rows = [
        (
            each.id,
            each.filename or "—",
            status_text(each.status),
            format_bytes(each.received_bytes),
            format_bytes(each.size_bytes),
            format_age(each.created_at),
        )
        for each in uploads
    ]
    print_table(_COLUMNS, rows)
