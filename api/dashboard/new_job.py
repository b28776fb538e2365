"""The form of a new job, which edits one JSON spec, and its data: the spec's schema and the methods.

The form's controls follow the JSON Schema, so a new method, option or block appears without code here. Without
JavaScript the page is a text field for the spec.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Form, Query, Request
from fastapi.responses import Response

from api.compression import compressed_response
from api.dashboard import service
from api.dashboard.endpoints import Operator, PageRoute
from api.dashboard.rendering import page, see_other
from api.deps import AppState, Caller, State
from api.jobs.endpoints import create_job
from api.methods import method_out
from api.rate_limit import rate_class
from api.request_body import parse_json
from core.errors import FieldError, NotFound, PotstillError
from core.spec import METHODS, JobSpec, parse_job_spec
from core.spec.examples import SLIM_RESNET, example_job
from core.spec.methods import Requirements
from core.spec.patterns import NO_NUL

DEFAULT_METHOD = "kd"
MAX_SPEC_CHARACTERS = 200_000
_IMMUTABLE = "public, max-age=31536000, immutable"
_MIN_IMAGE_SIZE, _MAX_IMAGE_SIZE = 8, 224  # of a first spec; its patch size is an eighth

router = APIRouter(include_in_schema=False, route_class=PageRoute)

_Text = Annotated[str | None, Query(max_length=200, pattern=NO_NUL)]


@dataclass(frozen=True, slots=True)
class FormData:
    """The JSON document that the form's script reads, and a version that changes with it."""

    content: bytes
    version: str


@cache
def form_data() -> FormData:
    """Return the JSON Schema of a spec, and of each method its description, requirements and an example."""
    methods = []
    for name, entry in METHODS.items():
        document = method_out(name).model_dump(mode="json", exclude={"parameters", "object"})
        example = {"name": name, **entry.params.info.example}
        datasets = list(entry.params.model_validate(example).datasets())
        methods.append({**document, "datasets": datasets})
    content = json.dumps({"schema": JobSpec.model_json_schema(), "methods": methods}, separators=(",", ":")).encode()
    return FormData(content, hashlib.sha256(content).hexdigest()[:12])


@router.get("/dashboard/job-form/{version}")
def job_form_data(version: str, request: Request) -> Response:
    """Serve the form's data; its URL changes with its content."""
    data = form_data()
    caching = _IMMUTABLE if version == data.version else "no-store"
    headers = {"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}
    return compressed_response(request, data.content, media_type="application/json", headers=headers)


@router.get("/jobs/new")
@rate_class("reads")
def new_job_page(
    request: Request,
    state: State,
    caller: Operator,
    *,
    source: Annotated[str | None, Query(alias="from", max_length=200, pattern=NO_NUL)] = None,
    start: _Text = None,
    checkpoint: _Text = None,
    method: _Text = None,
    dataset: _Text = None,
    teacher: _Text = None,
) -> Response:
    """Show the form with a first spec.

    ``from`` is a job whose spec fills the form; with ``start=student``, training starts from that job's student, with
    ``checkpoint`` from this checkpoint of it. ``start=compress`` compresses that student without further training.
    ``teacher`` is a model or job that becomes the teacher.
    """
    choices = service.read_choices(state.database, caller.project_id)
    if source is not None:
        (job,) = service.read_jobs(state.database, caller.project_id, [source])
        spec = _copied_spec(job, weights=checkpoint or (job["id"] if start in ("student", "compress") else None))
        if start == "compress":
            spec |= _compression(job)
    else:
        spec = _first_spec(choices, method, dataset)
    if teacher is not None:
        spec["teachers"] = [{"weights": teacher}]
    return _form_page(request, choices, json.dumps(spec, indent=2, ensure_ascii=False))


@router.post("/jobs/new")
@rate_class("jobs")
async def create_job_from_form(
    request: Request,
    state: State,
    caller: Operator,
    background: BackgroundTasks,
    spec: Annotated[str, Form(max_length=MAX_SPEC_CHARACTERS)] = "",
) -> Response:
    """Create a job from the text field, as ``POST /v1/jobs`` does; show the problems in the form."""
    try:
        document = parse_job_spec(parse_json(spec))
        response = await create_job(caller=caller, key=None, spec=document, state=state, background=background)
    except PotstillError as error:
        return await to_thread.run_sync(_form_with_problems, request, state, caller, spec, error)
    job_id = json.loads(bytes(response.body))["id"]
    return see_other(f"/jobs/{job_id}")


def _form_with_problems(request: Request, state: AppState, caller: Caller, text: str, error: PotstillError) -> Response:
    choices = service.read_choices(state.database, caller.project_id)
    problems = error.errors or (FieldError("", error.detail),)
    return _form_page(request, choices, text, problems=problems, status_code=HTTPStatus(error.status))


def _form_page(
    request: Request,
    choices: service.Choices,
    text: str,
    *,
    problems: tuple[FieldError, ...] = (),
    status_code: HTTPStatus = HTTPStatus.OK,
) -> Response:
    return page(
        "new_job.html",
        status_code=status_code,
        section="jobs",
        spec_text=text,
        problems=problems,
        choices=choices,
        data_url=f"/dashboard/job-form/{form_data().version}",
        base_url=str(request.base_url).rstrip("/"),
    )


def _first_spec(choices: service.Choices, method: str | None, dataset: str | None) -> dict[str, Any]:
    """Return a small job on the dataset, or on the newest one with classes, else the newest.

    A dataset without classes is the job's unlabeled one if another has classes and the method has a teacher of them.
    Raises ``NotFound`` for an unknown method.
    """
    name = method or DEFAULT_METHOD
    if name not in METHODS:
        raise NotFound(f"There is no method {name[:80]!r}.")
    needs = METHODS[name].params.info.needs
    chosen = next((each for each in choices.datasets if each["id"] == dataset), None)
    labeled = next((each for each in choices.datasets if each["num_classes"]), None)
    unlabeled = None
    if chosen is None and dataset is None and choices.datasets:
        chosen = labeled or choices.datasets[0]
    elif chosen and not chosen["num_classes"] and labeled and needs.teacher and not needs.headless:
        chosen, unlabeled = labeled, chosen["id"]
    size = 32 if chosen is None else _image_size(chosen["image_size"])
    dataset_id = chosen["id"] if chosen else dataset or ""
    spec = example_job(name, dataset=dataset_id, pool="", trained="pretrained", image_size=size)
    _set_defaults(spec, needs)
    if unlabeled:
        spec["unlabeled_dataset"] = unlabeled
    if spec.get("teachers") and not needs.headless and (chosen is None or chosen["num_classes"]):
        spec["baseline"] = True
    return spec


def _set_defaults(spec: dict[str, Any], needs: Requirements) -> None:
    """Leave out the epochs, whose default gives random weights enough steps; a CNN is the teacher where any may be.

    A CNN learns more than a ViT from few images.
    """
    del spec["training"]["epochs"]
    for teacher in spec.get("teachers", ()):
        teacher["training"].pop("epochs", None)
    if len(spec.get("teachers", ())) == 1 and not needs.teacher_families and needs.teacher == ("logits",):
        spec["teachers"] = [{**SLIM_RESNET, "training": spec["teachers"][0]["training"]}]


def _image_size(size: int | None) -> int:
    """Return a multiple of 8 near the dataset's image size, so that patches fit."""
    rounded = 8 * round((size or _MAX_IMAGE_SIZE) / 8)
    return min(max(rounded, _MIN_IMAGE_SIZE), _MAX_IMAGE_SIZE)


def _compression(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a spec that compresses the job's student as it is to int8."""
    training = {**job["spec"]["training"], "epochs": 0}
    name = f"{job['spec'].get('name') or job['id']} (compressed)"[:200]
    steps = [{"name": "quantize", "dtype": "int8"}]
    return {"name": name, "training": training, "compression": steps, "baseline": False}


def _copied_spec(job: Mapping[str, Any], *, weights: str | None) -> dict[str, Any]:
    """Return the job's spec; with ``weights``, its student starts from them and so has their architecture."""
    spec = dict(job["spec"])
    if spec.get("name"):
        spec["name"] = f"{spec['name']} (copy)"[:200]
    if weights is not None:
        spec["student"] = {"weights": weights}
    return spec
