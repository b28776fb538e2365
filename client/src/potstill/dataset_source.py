"""Sources of datasets as text, for the command line and agents."""

from __future__ import annotations

import re
from typing import Any

from potstill.errors import InvalidArgument

SOURCES = (
    "`builtin:` with digits, mnist-5k, mnist-300 (300 labels) or mnist-unlabeled (more images of the same kind), an "
    "https URL, s3://BUCKET/KEY, hf:OWNER/NAME@REVISION of the Hugging Face hub, or upload:ID"
)

_HUB = re.compile(r"hf:(?://datasets/)?(?P<repo>[^@]+)(?:@(?P<revision>.+))?")


def parse_source(text: str, *, config: str | None = None, split: str | None = None) -> dict[str, Any] | None:
    """Return the source that a text names, see :data:`SOURCES`; None for a path of this machine.

    ``config`` and ``split`` are those of a dataset of the hub. Raises :class:`InvalidArgument` for other sources.
    """
    choices = {name: value for name, value in (("config", config), ("split", split)) if value is not None}
    if (hub := _HUB.fullmatch(text)) is not None:
        found = {name: value for name, value in hub.groupdict().items() if value is not None}
        return {"type": "huggingface", **found, **choices}
    if choices:
        raise InvalidArgument(f"{' and '.join(choices)}: only a dataset of the hub has this choice (hf:OWNER/NAME)")
    kind, _, rest = text.partition(":")
    if kind == "builtin":
        return {"type": "builtin", "name": rest}
    if kind == "upload":
        return {"type": "upload", "upload": rest}
    if "://" in text:
        return {"type": "s3" if kind == "s3" else "url", "url": text}
    return None
