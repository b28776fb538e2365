"""Terminal output of the command line: JSON, warnings and errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console

from potstill.cli.routes import name_commands, name_option
from potstill.document_base import Document
from potstill.documents import JobWarning
from potstill.errors import ApiError, PotstillError
from potstill.formats import escape_text, format_sentence

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_UNKNOWN_KEY = "The service does not know this API key, or it has expired. Run `potstill login`."


def print_json(document: Document | Sequence[Document] | Any) -> None:
    """Print a document or a list to standard output as indented JSON, without wrapping or colors."""
    print(json.dumps(_plain(document), indent=2, ensure_ascii=False))


def print_json_line(document: Document) -> None:
    """Print a document as one JSON line and flush, for streams."""
    print(json.dumps(_plain(document), ensure_ascii=False), flush=True)


def print_removed(removed: str, text: str, *, as_json: bool) -> None:
    """Print that an object is deleted or revoked: the text, or JSON with the argument that named it."""
    if as_json:
        print_json({"removed": removed})
    else:
        out.print(text, markup=False)


def _plain(document: Any) -> Any:
    if isinstance(document, Document):
        return document.to_dict()
    return [_plain(item) for item in document] if isinstance(document, list) else document


def print_warnings(warnings: Iterable[JobWarning]) -> None:
    """Print the warnings of a job, an estimate or a dataset, each with its code, field and fix."""
    for warning in warnings:
        at = f" {warning.field}" if warning.field else ""
        text = " ".join(format_sentence(part) for part in (warning.message, warning.fix) if part)
        out.print(
            f"  [yellow]warning[/] {escape_text(warning.code + at)}: {escape_text(name_commands(text))}",
            soft_wrap=not out.is_terminal,  # in a terminal at spaces; elsewhere a line for each warning
        )


def print_error(error: PotstillError, *, as_json: bool) -> None:
    """Print an error to standard error, with its fields and, for server errors, the request id."""
    if as_json:
        document = error.problem if isinstance(error, ApiError) else {"detail": str(error), "code": "client_error"}
        err.out(json.dumps(document, ensure_ascii=False))
        return
    if not isinstance(error, ApiError):
        err.print(f"[bold red]error[/]  {escape_text(str(error))}", soft_wrap=True)
        return
    err.print(f"[bold red]{escape_text(error.code)}[/]  {escape_text(error.title)}", soft_wrap=True)
    if error.errors:
        for field in error.errors:
            pointer, detail = name_option(field.get("pointer") or "/", name_commands(field.get("detail", "")))
            err.print(f"  [bold]{escape_text(pointer)}[/]  {escape_text(detail)}", soft_wrap=True)
    elif error.code == "not_authenticated":
        err.print(f"  {_UNKNOWN_KEY}", soft_wrap=True)
    else:
        err.print(f"  {escape_text(name_commands(error.detail))}", soft_wrap=True)
    if error.status >= 500 and error.request_id:
        err.print(f"  [dim]request {escape_text(error.request_id)}[/]", soft_wrap=True)
