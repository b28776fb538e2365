"""The catalogue of methods, with a chooser: of the teachers, students and labels at hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response

from api.dashboard.endpoints import PageRoute, Viewer
from api.dashboard.rendering import page
from api.methods import MethodOut, method_out
from api.rate_limit import rate_class
from core.spec import METHODS
from core.spec.gains import Gain, gains_of

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")

Teachers = Literal["", "none", "one", "several"]
FamilyChoice = Literal["", "transformer", "cnn", "hybrid", "mlp"]
Labels = Literal["", "no"]

CHOICES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "teachers": (("", "Any number"), ("none", "No teacher"), ("one", "One teacher"), ("several", "Several teachers")),
    "teacher": (("", "Any"), ("transformer", "Transformer"), ("cnn", "CNN"), ("hybrid", "Hybrid"), ("mlp", "MLP")),
    "student": (("", "Any"), ("transformer", "Transformer"), ("cnn", "CNN"), ("hybrid", "Hybrid"), ("mlp", "MLP")),
    "labels": (("", "Labeled"), ("no", "No labels")),
}


@dataclass(frozen=True, slots=True)
class MethodView:
    """A method with what the page derives from it."""

    method: MethodOut
    paper: str  # without its arXiv number
    arxiv: str | None
    without_labels: bool
    gains: tuple[Gain, ...]


@router.get("/methods")
@rate_class("reads")
def methods_page(
    caller: Viewer,
    teachers: Annotated[Teachers, Query()] = "",
    teacher: Annotated[FamilyChoice, Query()] = "",
    student: Annotated[FamilyChoice, Query()] = "",
    labels: Annotated[Labels, Query()] = "",
) -> Response:
    """List the methods that fit the choices."""
    views = [_view(name) for name in METHODS]
    found = [
        view
        for view in views
        if _fits_teachers(view.method, teachers)
        and _fits_family(view.method.needs.teacher_families, teacher, has_model=view.method.needs.max_teachers != 0)
        and _fits_family(view.method.needs.student_families, student)
        and (labels != "no" or view.without_labels)
    ]
    chosen = {"teachers": teachers, "teacher": teacher, "student": student, "labels": labels}
    return page(
        "methods.html",
        section="methods",
        found=found,
        num_methods=len(views),
        choices=CHOICES,
        chosen=chosen,
        is_filtered=any(chosen.values()),
        may_write=caller.has_scope("write"),
    )


@cache
def _view(name: str) -> MethodView:
    method, params = method_out(name), METHODS[name].params
    match = _ARXIV.search(method.paper)
    paper = method.paper.replace(match[0], "").rstrip(", ") if match else method.paper
    without_labels = not method.needs.labels or bool(params.label_free)
    return MethodView(method, paper, match[1] if match else None, without_labels, gains_of(name))


def _fits_teachers(method: MethodOut, choice: Teachers) -> bool:
    low, high = method.needs.min_teachers, method.needs.max_teachers
    match choice:
        case "none":
            return low == 0
        case "one":
            return low <= 1 and high != 0
        case "several":
            return high is None or high > 1
        case _:
            return True


def _fits_family(families: list[str], choice: FamilyChoice, *, has_model: bool = True) -> bool:
    return not choice or (has_model and (not families or choice in families))
