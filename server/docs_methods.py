"""Generate the pages of ``docs/methods`` from the method definitions."""

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
_GENERATED = "Generated from `core/spec/methods` by `make docs`.\n"

_OVERVIEW = f"""# Methods
All distillation methods of this version, as in `GET /v1/methods`. {_GENERATED}
A job spec selects the method with `method.name`; the parameters are in the same object. [Recipes](recipes.md) combine
methods with views, mixing and several teachers. Cost is the time of a training step relative to `scratch` with the same
student, measured in turn with it on a CPU. Teacher outputs are read from the cache; where a method caches none, its
teachers, of the student's size, run in each step.

| method | description | teachers | student | cost | paper |
| --- | --- | --- | --- | ---: | --- |
"""


def method_pages() -> dict[str, str]:
    """Return the content of each page by file name."""
    pages = {f"{name}.md": _page(name, entry.params) for name, entry in METHODS.items()}
    return {"README.md": _OVERVIEW + "".join(map(_row, METHODS)), **pages}


def _row(name: str) -> str:
    about = METHODS[name].params.info
    paper = _link(about.paper, short=True)
    cells = (f"[`{name}`]({name}.md)", about.summary, _teachers(about.needs), _families(about.needs.student_families))
    return f"| {' | '.join(map(_cell, cells))} | {_cost(name)} | {about.year}{f', {paper}' if paper else ''} |\n"


def _page(name: str, params: type[MethodParams]) -> str:
    about = params.info
    needs = about.needs
    paper = f"**Paper.** {_link(about.paper)} ({about.year})\n\n" if about.paper else ""
    requirements = {
        "teachers": _teachers(needs) + _provides(needs.teacher),
        "student": _families(needs.student_families) + _provides(needs.student),
        "labels": _labels(params),
        "other datasets": ", ".join(f"`{field}`" for field in _datasets(name, params)) or "none",
        "cached teacher outputs": ", ".join(about.caches) or "none",
        "cost": _cost(name),
    }
    listed = "".join(f"- {name}: {value}\n" for name, value in requirements.items())
    formula = f"## Loss\n{_link(about.formula)}\n\n" if about.formula else ""
    deviations = "".join(f"- {_link(deviation)}\n" for deviation in about.deviations)
    if deviations:
        deviations = f"## Differences from the paper and its official code\n{deviations}\n"
    example = json.dumps(example_job(name), indent=2, ensure_ascii=False)
    return (
        f"# `{name}`\n{about.summary}\n\n{paper}**When to choose it.** {about.when}\n\n{_GENERATED}\n"
        f"{formula}"
        f"## Requirements\n{listed}\n"
        f"## Parameters\n{_parameters(params)}\n"
        f"{deviations}"
        f"## Example\nReplace the ids with your own.\n```json\n{example}\n```\n"
    )


def _parameters(params: type[MethodParams]) -> str:
    schema = params.model_json_schema()["properties"]
    parameters = {name: entry for name, entry in schema.items() if name != "name"}
    if not parameters:
        return "None.\n"
    head = "| parameter | default | values | description |\n| --- | --- | --- | --- |\n"
    return head + "".join(
        f"| `{name}` | {_default(entry)} | {_values(entry)} | {_cell(entry.get('description', ''))} |\n"
        for name, entry in parameters.items()
    )


def _default(entry: Mapping[str, Any]) -> str:
    return f"`{json.dumps(entry['default'])}`" if "default" in entry else "required"


def _values(entry: Mapping[str, Any]) -> str:
    """Describe the values that a JSON Schema allows."""
    if "anyOf" in entry:
        return " or ".join(map(_values, entry["anyOf"]))
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    match entry.get("type", "object"):  # a $ref has no type
        case "array" if "prefixItems" in entry:
            return "pair"
        case "array":
            return f"list of: {_values(entry['items'])}"
        case "number" | "integer" as kind:
            return f"{kind}{_bounds(entry)}"
        case kind:
            return str(kind)


def _bounds(entry: Mapping[str, Any]) -> str:
    symbols = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{symbol} {entry[key]:g}" for key, symbol in symbols.items() if key in entry]
    return f" {', '.join(bounds)}" if bounds else ""


def _teachers(needs: Requirements) -> str:
    if needs.max_teachers == 0:
        return "none"
    minimum, maximum = needs.min_teachers, needs.max_teachers
    if maximum is None:
        count = f"{minimum} or more"
    else:
        count = str(minimum) if maximum == minimum else f"{minimum} to {maximum}"
    return f"{count}, {_families(needs.teacher_families)}"


def _labels(params: type[MethodParams]) -> str:
    """Describe with which parameters labels are read."""
    if not params.info.needs.labels:
        return "not needed"
    choices = [
        f"`{name}` is {' or '.join(f'`{_plain(v)}`' for v in values)}" for name, values in params.label_free.items()
    ]
    return f"used, unless {' and '.join(choices)}: then the dataset may have none" if choices else "used"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _families(families: Sequence[str]) -> str:
    return " or ".join(families) if families else "any family"


def _provides(outputs: Sequence[str]) -> str:
    return f"; provides {', '.join(outputs)}" if outputs else ""


def _datasets(name: str, params: type[MethodParams]) -> tuple[str, ...]:
    return tuple(params.model_validate({"name": name, **params.info.example}).datasets())


def _cost(name: str) -> str:
    cost = relative_cost(name)
    return "not measured" if cost is None else f"{cost:.2f} ×"


def _link(paper: str, *, short: bool = False) -> str:
    """The text with each arXiv number as a link of its own; only the links if ``short``."""
    if short:
        return ", ".join(map(_arxiv_link, _ARXIV.finditer(paper)))
    return _ARXIV.sub(_arxiv_link, paper)


def _arxiv_link(number: re.Match[str]) -> str:
    return f"[{number.group()}](https://arxiv.org/abs/{number.group(1)})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
