"""Generate ``docs/api.md``, the routes of the API, and ``docs/problems.md``, the codes of all errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from api.code_samples import operations
from api.docs_page import problem_types
from api.openapi import TAGS

_API_HEAD = """# HTTP API
The routes of a service. Its page `/docs` has parameters, answers and an example of each in curl, Python and JavaScript,
without internet; `/docs/redoc` shows the same document with search. The document itself is `/openapi.json`, and
[here](openapi.json) for this version. Generated from the code by `make docs`.

A request carries `Authorization: Bearer KEY`. Every `POST` that creates something takes an `Idempotency-Key`: a
repetition within a day has the first answer. Lists have `data` and `has_more`; `after` takes the last id of a page. An
error is a problem (RFC 9457) with one of these [codes](problems.md).
"""
_PROBLEMS_HEAD = """# Error codes
Every error has a stable `code`, and a detail that names the fix. Generated from the code by `make docs`.

## Of requests
An answer of 400 or above is a problem (RFC 9457) with `code`, `title`, `detail`, and `errors` where fields are wrong:
each has a `pointer` (JSON Pointer into the body) and its own detail. 429 and 503 have `Retry-After`.
[Solve problems](troubleshooting.md) has symptoms and their cures.

"""
_RUN_HEAD = """
## Of jobs, datasets and models
A failed job has `error` with `code`, `message`, `fault`, `retryable`, `advice` and, where one exists, a `fix` that
`potstill jobs retry JOB --apply-fix` applies. Datasets, models and pushes have the same codes in their `error`.

"""
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")  # to a page of the service
_SENTENCE = re.compile(r".+?\.(?= |$)")
_RUN_STATUS = 500  # of errors that are no answer to a request


def api_page(document: Mapping[str, Any]) -> str:
    """Return the table of all routes, by tag."""
    listed = list(operations(document))
    sections = []
    for tag in TAGS:
        rows = [
            (f"`{method.upper()} {path}`", _first_sentence(each["description"]))
            for path, method, each in listed
            if tag["name"] in each["tags"]
        ]
        sections.append(
            f"\n## {tag['name'].capitalize()}\n{tag['description']}\n\n{_table(('route', 'what it does'), rows)}"
        )
    return _API_HEAD + "".join(sections)


def problems_page() -> str:
    """Return the table of all error codes: those of requests, and those of runs."""
    requests, runs = [], []
    for code, status, _, text in problem_types():
        if status == _RUN_STATUS:
            runs.append((f"`{code}`", text))
        else:
            requests.append((str(status), f"`{code}`", text))
    head = ("status", "code", "meaning")
    return _PROBLEMS_HEAD + _table(head, requests) + _RUN_HEAD + _table(("code", "meaning"), runs)


def _first_sentence(text: str) -> str:
    match = _SENTENCE.match(" ".join(text.split()))
    return match[0] if match else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
