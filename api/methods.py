"""``/v1/methods``: the distillation methods and their parameters, from the method registry."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from api.deps import Reader
from api.problems import problems
from api.rate_limit import rate_class
from api.schemas import Out, Page
from core.errors import InvalidRequest, NotFound
from core.spec import METHODS
from core.spec.costs import relative_cost
from core.spec.examples import example_job
from core.spec.gains import Gain
from core.spec.methods import Family
from core.spec.methods.auto import Compute
from core.spec.parse import did_you_mean
from core.spec.recommend import Situation, TeacherKind, advice, recommend

router = APIRouter(prefix="/v1/methods", tags=["methods"])


class NeedsOut(Out):
    """Requirements of a method on a job."""

    min_teachers: int
    max_teachers: int | None = Field(description="Null: any number.")
    teacher: list[str]
    student: list[str]
    student_families: list[str] = Field(description="Empty: any.")
    teacher_families: list[str] = Field(description="Empty: any.")
    labels: bool
    headless: bool = Field(description="The student has no classifier: the method trains its embedding.")


class MethodOut(Out):
    """A distillation method."""

    object: Literal["method"] = "method"
    name: str
    summary: str
    when: str = Field(description="When to choose it.")
    paper: str
    year: int
    parameters: dict[str, Any] = Field(description="JSON Schema of the spec's `method`, with defaults.")
    needs: NeedsOut
    caches: list[str] = Field(
        description="Teacher outputs that are cached and shared by jobs with the same inputs. Empty: the method "
        "computes them in every step."
    )
    cost: float | None = Field(
        description="Duration of a training step, teachers included, relative to `scratch` with the same student; "
        "measured with a small pair on a CPU. Null: not measured."
    )
    example: dict[str, Any] = Field(description="A small job with this method; replace its ids.")


@router.get("", response_model=Page[MethodOut], responses=problems())
@rate_class("reads")
def list_methods(_: Reader) -> Page[MethodOut]:
    """List all methods of this version."""
    return Page(data=[method_out(name) for name in METHODS], has_more=False)


class RecommendationOut(Out):
    """One method for a situation, and why."""

    object: Literal["recommendation"] = "recommendation"
    method: dict[str, Any] = Field(description="Value of the spec's `method`; further parameters have defaults.")
    reason: str
    expected_gain: Gain | None = Field(
        description="Measured by this version's benchmark (`kind: measured`), or else as published. Null: neither."
    )
    cost: float | None = Field(description="As in `GET /v1/methods`.")


class RecommendationsOut(Out):
    """Methods for a situation, the best first."""

    object: Literal["list"] = "list"
    data: list[RecommendationOut]
    has_more: bool = False
    advice: list[str] = Field(description="What helps in this situation beyond the method.")


def _query(name: str, **limits: Any) -> Any:
    return Query(description=Situation.model_fields[name].description, **limits)


@router.get("/recommend", response_model=RecommendationsOut, responses=problems(InvalidRequest))
@rate_class("reads")
def recommend_methods(
    _: Reader,
    *,
    teacher: Annotated[TeacherKind, _query("teacher")],
    student: Annotated[Family, _query("student")],
    num_images: Annotated[int, _query("num_images", ge=1, le=10**10)],
    labels: Annotated[bool, _query("labels")] = True,
    same_classes: Annotated[bool, _query("same_classes")] = True,
    num_teachers: Annotated[int, _query("num_teachers", ge=1, le=8)] = 1,
    compute: Annotated[Compute, _query("compute")] = "medium",
) -> RecommendationsOut:
    """Recommend methods for a pair of teacher and student.

    The method `{"name": "auto"}` of a job takes the first that its networks and dataset can run.
    """
    situation = Situation(
        teacher=teacher,
        student=student,
        num_images=num_images,
        labels=labels,
        same_classes=same_classes,
        num_teachers=num_teachers,
        compute=compute,
    )
    found = [
        RecommendationOut(method=each.method, reason=each.reason, expected_gain=each.gain, cost=each.cost)
        for each in recommend(situation)
    ]
    return RecommendationsOut(data=found, advice=advice(situation))


@router.get("/{name}", response_model=MethodOut, responses=problems(NotFound))
@rate_class("reads")
def get_method(name: str, _: Reader) -> MethodOut:
    """Get a method."""
    if name not in METHODS:
        methods = f"Methods: {', '.join(METHODS)}."
        raise NotFound(f"There is no method {name[:80]!r}.{did_you_mean(name[:80], METHODS)} {methods}")
    return method_out(name)


@cache
def method_out(name: str) -> MethodOut:
    """Describe a registered method. The document is built once: its JSON Schema takes milliseconds."""
    params = METHODS[name].params
    about = params.info
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
