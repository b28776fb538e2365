"""The pages of ``docs/methods``, made from what each method says about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from core.spec import METHODS
from core.spec.costs import relative_cost
from core.spec.examples import example_job
from core.spec.methods import MethodParams, Requirements

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
_MADE = "Made from `core/spec/methods` by `make docs`.\n"

_OVERVIEW = f"""# Methods
Every way to distil that this version has; `GET /v1/methods` says the same. {_MADE}
A method is chosen by `method.name` of a job spec, its parameters stand beside the name. [Recipes](recipes.md) combine
methods with views, mixing and several teachers. Cost is the time of a training step, the teachers' answers included,
over that of `scratch` with the same student, measured on a small pair on a CPU.

| method | what it does | teachers | student | cost | paper |
| --- | --- | --- | --- | ---: | --- |
"""


def method_pages() -> dict[str, str]:
    """The content of each page by its file's name."""
    pages = {f"{name}.md": _page(name, entry.params) for name, entry in METHODS.items()}
    return {"README.md": _OVERVIEW + "".join(map(_row, METHODS)), **pages}


def _row(name: str) -> str:
    about = METHODS[name].params.about
    paper = _link(about.paper, short=True)
    cells = (f"[`{name}`]({name}.md)", about.summary, _teachers(about.needs), _kinds(about.needs.student_families))
    return f"| {' | '.join(map(_cell, cells))} | {_cost(name)} | {about.year}{f', {paper}' if paper else ''} |\n"


def _page(name: str, params: type[MethodParams]) -> str:
    about = params.about
    needs = about.needs
    paper = f"**Paper.** {_link(about.paper)} ({about.year})\n\n" if about.paper else ""
    facts = {
        "teachers": _teachers(needs) + _gives(needs.teacher),
        "student": _kinds(needs.student_families) + _gives(needs.student),
        "labels": "used" if needs.labels else "not needed",
        "other datasets": ", ".join(f"`{field}`" for field in _datasets(name, params)) or "none",
        "what of the teacher is stored once": ", ".join(about.caches) or "nothing",
        "cost": _cost(name),
    }
    listed = "".join(f"- {what}: {value}\n" for what, value in facts.items())
    example = json.dumps(example_job(name), indent=2, ensure_ascii=False)
    return (
        f"# `{name}`\n{about.summary}\n\n{paper}**When to choose it.** {about.when}\n\n{_MADE}\n"
        f"## What it needs\n{listed}\n"
        f"## Parameters\n{_parameters(params)}\n"
        f"## Example\nThe ids are to be replaced by your own.\n```json\n{example}\n```\n"
    )


def _parameters(params: type[MethodParams]) -> str:
    schema = params.model_json_schema()["properties"]
    named = {name: entry for name, entry in schema.items() if name != "name"}
    if not named:
        return "None.\n"
    head = "| parameter | default | values | what it is |\n| --- | --- | --- | --- |\n"
    return head + "".join(
        f"| `{name}` | {_default(entry)} | {_values(entry)} | {_cell(entry.get('description', ''))} |\n"
        for name, entry in named.items()
    )


def _default(entry: Mapping[str, Any]) -> str:
    return f"`{json.dumps(entry['default'])}`" if "default" in entry else "required"


def _values(entry: Mapping[str, Any]) -> str:
    """What a JSON Schema allows, in words."""
    if "anyOf" in entry:
        return " or ".join(map(_values, entry["anyOf"]))
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    match entry.get("type", "object"):  # what is defined elsewhere has no type here
        case "array" if "prefixItems" in entry:
            return "pair"
        case "array":
            return f"list of: {_values(entry['items'])}"
        case "number" | "integer" as kind:
            return f"{kind}{_bounds(entry)}"
        case kind:
            return str(kind)


def _bounds(entry: Mapping[str, Any]) -> str:
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{word} {entry[key]:g}" for key, word in words.items() if key in entry]
    return f" {', '.join(found)}" if found else ""


def _teachers(needs: Requirements) -> str:
    if needs.max_teachers == 0:
        return "none"
    least, most = needs.min_teachers, needs.max_teachers
    count = f"{least} or more" if most is None else str(least) if most == least else f"{least} to {most}"
    return f"{count}, {_kinds(needs.teacher_families)}"


def _kinds(families: Sequence[str]) -> str:
    return " or ".join(families) if families else "any family"


def _gives(what: Sequence[str]) -> str:
    return f"; gives {', '.join(what)}" if what else ""


def _datasets(name: str, params: type[MethodParams]) -> tuple[str, ...]:
    return tuple(params.model_validate({"name": name, **params.about.example}).datasets())


def _cost(name: str) -> str:
    cost = relative_cost(name)
    return "not measured" if cost is None else f"{cost:.2f} ×"


def _link(paper: str, *, short: bool = False) -> str:
    """The paper with its arXiv number as a link; ``short`` is the link alone."""
    found = _ARXIV.search(paper)
    if found is None:
        return "" if short else paper
    link = f"[{found.group()}](https://arxiv.org/abs/{found.group(1)})"
    return link if short else _ARXIV.sub(link, paper)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
