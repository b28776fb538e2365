"""Generate ``docs/llms.txt``: the pages of the documentation, one line for each, for language models (llmstxt.org)."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
_SENTENCE = re.compile(r"(.+?[.:])(?:\s|$)", re.DOTALL)

_HEAD = """# {name}

> {description}: a REST API, a Python SDK, a command line and MCP tools make a small model (student) from a large one
> (teacher) and images.

A running service has its OpenAPI document at `/openapi.json` and, if `make docs-site` has built them, these pages at
`/guide`. Agents use the tools of `potstill mcp`; [SKILL.md](skill/SKILL.html) has the workflow.
"""


def llms_text() -> str:
    """Return the text, in the order of the navigation of ``zensical.toml``."""
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    head = _HEAD.format(name=project["site_name"], description=project["site_description"])
    return head + "".join(_sections(project["nav"]))


def _sections(nav: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    top = [entry for entry in nav if isinstance(next(iter(entry.values())), str)]
    yield "\n## Start\n" + "".join(map(_line, top))
    for entry in nav:
        for title, pages in entry.items():
            if not isinstance(pages, str):
                # Pages of measured figures begin with figures, which change at each run.
                lines = (f"- {_link(page)}\n" if title == "Evidence" else _line(page) for page in pages)
                yield f"\n## {title}\n" + "".join(lines)


def _line(entry: Mapping[str, str]) -> str:
    (page,) = entry.values()
    return f"- {_link(entry)}: {_summary((ROOT / 'docs' / page).read_text())}\n"


def _link(entry: Mapping[str, str]) -> str:
    ((title, page),) = entry.items()
    return f"[{title}]({page.removesuffix('.md')}.html)"


def _summary(text: str) -> str:
    """Return the first sentence of a page."""
    lines = (line.strip() for line in text.splitlines())
    body = itertools.dropwhile(lambda line: not line or line.startswith(("#", "<", "!")), lines)
    paragraph = " ".join(itertools.takewhile(bool, body))
    sentence = _SENTENCE.match(paragraph)
    return _LINK.sub(r"\1", sentence[1] if sentence else paragraph).rstrip(":.") + "."
