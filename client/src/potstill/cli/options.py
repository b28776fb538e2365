"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from potstill._sync.client import Potstill
from potstill.errors import InvalidArgument

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option(min=1, help="Maximum number of lines.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Job: its id (job_…), unique name or unique id prefix.")]
DatasetId = Annotated[
    str, typer.Argument(metavar="DATASET", help="Dataset: its id (ds_…), unique name or unique id prefix.")
]
ModelId = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model: its id (mdl_…), unique name or unique id prefix.")
]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Key: its id (key_…), unique name or unique id prefix.")]
SpecFile = Annotated[str, typer.Argument(metavar="SPEC", help="Job spec file (JSON or YAML); - reads standard input.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Set a field of the spec, e.g. training.epochs=50; repeatable."),
]
OutFolder = Annotated[Path | None, typer.Option("--out", "-o", help="Output folder. Default: the job's id.")]

Item = TypeVar("Item")


def connect() -> Potstill:
    """Create a client for the configured service. Raises :class:`NotConfigured`."""
    return Potstill()


def find_one(text: str, kind: str, items: Iterable[Item], names: Callable[[Item], tuple[str, str | None]]) -> Item:
    """Return the item with an id, a unique name or a unique id prefix. Raises :class:`InvalidArgument`.

    ``names`` returns an item's id and name. Serves the objects whose routes accept only ids.
    """
    listed = [(item, *names(item)) for item in items]
    matches = [item for item, id_, _ in listed if id_ == text]
    matches = matches or [item for item, _, name in listed if name == text]
    matches = matches or [item for item, id_, _ in listed if text and id_.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise InvalidArgument(f"there is no {kind} {text!r}")
    candidates = ", ".join(names(item)[0] for item in matches[:5])
    raise InvalidArgument(f"{text!r} matches {len(matches)} {kind}s: {candidates}; use the id of one of them")
