"""Expand the numbered shards in a URL: ``…/train-{000..003}.tar`` stands for four files, as in WebDataset."""

from __future__ import annotations

import re

from core.ingest_errors import UrlNotAllowed

MAX_SHARDS = 10_000
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


def expand_url(url: str) -> list[str]:
    """Return the URLs that a pattern stands for, in order; a URL without a pattern alone.

    Numbers have the digits of the first one. Raises :class:`UrlNotAllowed` for several patterns, a range that goes
    backwards, or too many shards.
    """
    match = _RANGE.search(url)
    if match is None:
        return [url]
    first, last = int(match[1]), int(match[2])
    if _RANGE.search(url, match.end()):
        raise UrlNotAllowed("the URL has several patterns; one {000..003} is supported")
    if not 0 <= last - first < MAX_SHARDS:
        raise UrlNotAllowed(f"the pattern {match[0]} stands for no file or for more than {MAX_SHARDS:,}")
    return [
        f"{url[: match.start()]}{number:0{len(match[1])}d}{url[match.end() :]}" for number in range(first, last + 1)
    ]
