"""``/v1/methods``: every method with its parameters; read from the registry, so it is never out of date."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from api.deps import Reader
from api.problems import problems
from api.schemas import Out, Page
from core.errors import NotFound
from core.spec import METHODS, MethodParams
from core.spec.costs import relative_cost
from core.spec.examples import example_job
from core.spec.parse import did_you_mean

router = APIRouter(prefix="/v1/methods", tags=["methods"])


class NeedsOut(Out):
    """What a method asks of a job."""

    min_teachers: int
    max_teachers: int | None = Field(description="Null: any number.")
    teacher: list[str]
    student: list[str]
    student_families: list[str] = Field(description="Empty: any.")
    teacher_families: list[str] = Field(description="Empty: any.")
    labels: bool
    headless: bool = Field(description="The student has no classifier: its embedding is what is learned.")


class MethodOut(Out):
    """A way to distil."""

    object: Literal["method"] = "method"
    name: str
    summary: str
    when: str = Field(description="When to choose it.")
    paper: str
    year: int
    parameters: dict[str, Any] = Field(description="JSON Schema of the spec's `method`, with defaults.")
    needs: NeedsOut
    caches: list[str] = Field(
        description="What teachers say of a view that is stored once and used by every job that asks the same. Empty "
        "where the method asks them in every step."
    )
    cost: float | None = Field(
        description="Seconds of a training step over those of `scratch` with the same student, the teachers' answers "
        "included; measured on a small pair on a CPU. Null: not measured."
    )
    example: dict[str, Any] = Field(description="A small job of this method, with ids to be replaced.")


@router.get("", response_model=Page[MethodOut], responses=problems())
def list_methods(_: Reader) -> Page[MethodOut]:
    """Every method that this version has."""
    return Page(data=[_method(name, entry.params) for name, entry in METHODS.items()], has_more=False)


@router.get("/{name}", response_model=MethodOut, responses=problems(NotFound))
def get_method(name: str, _: Reader) -> MethodOut:
    """One method."""
    if name not in METHODS:
        known = f"Known: {', '.join(METHODS)}."
        raise NotFound(f"There is no method {name[:80]!r}.{did_you_mean(name[:80], METHODS)} {known}")
    return _method(name, METHODS[name].params)


def _method(name: str, params: type[MethodParams]) -> MethodOut:
    about = params.about
    needs = NeedsOut(
        min_teachers=about.needs.min_teachers,
        max_teachers=about.needs.max_teachers,
        teacher=list(about.needs.teacher),
        student=list(about.needs.student),
        student_families=list(about.needs.student_families),
        teacher_families=list(about.needs.teacher_families),
        labels=about.needs.labels,
        headless=about.needs.headless,
    )
    return MethodOut(
        name=name,
        summary=about.summary,
        when=about.when,
        paper=about.paper,
        year=about.year,
        parameters=params.model_json_schema(),
        needs=needs,
        caches=list(about.caches),
        cost=relative_cost(name),
        example=example_job(name),
    )
