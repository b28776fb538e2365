"""``POST /v1/jobs/{id}/predictions``: try the student of a job on an image. The inspector computes the answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import Field

from api.deps import AppState, Caller, Reader, State
from api.multipart import FormRules, receive_form
from api.problems import problems
from api.rate_limit import rate_class
from api.references import REFERENCE_ERRORS, JobId
from api.request_body import form_body
from api.schemas import Out
from core.broker import InspectorTimeout, InspectorUnavailable
from core.errors import (
    InvalidState,
    MalformedRequest,
    NotAvailable,
    NotFound,
    PayloadTooLarge,
    UnsupportedMedia,
)
from core.ingest_errors import ImageUnreadable
from core.spec import METHODS
from core.store import jobs, teachers
from core.store.artifact_store import StoredFile, parse_stored_files
from core.store.db import Session
from core.store.tables import Job
from core.store.weights import weights_files

MAX_IMAGE_BYTES = 8 * 1024**2  # the image travels through the broker
MAX_STUDENT_BYTES = 2 * 1024**3
MAX_TEACHER_BYTES = 256 * 1024**2  # about a ViT-S or ResNet-50; larger ones take too long to load

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"])

_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": f"An image of at most {MAX_IMAGE_BYTES:,} bytes, such as JPEG, PNG, WebP or TIFF.",
        }
    },
}


class ClassOut(Out):
    """A class with its probability."""

    index: int
    name: str = Field(description="The index, if the network has no names.")
    probability: float


class TeacherPredictionOut(Out):
    """What a teacher predicts."""

    teacher: int = Field(description="Its index in the spec.")
    classes: list[ClassOut] | None = Field(description="Null: it was not run.")
    reason: str | None = Field(description="Why it was not run.")


class PredictionOut(Out):
    """The most probable classes of an image, five at most, the first one first."""

    object: Literal["prediction"] = "prediction"
    job: str
    width: int = Field(description="Of the upright image in pixels; its center square is classified.")
    height: int
    student: list[ClassOut] = Field(description="Of `model.safetensors`, in float; compressed files are not run.")
    teachers: list[TeacherPredictionOut]


@dataclass(frozen=True, slots=True)
class _Networks:
    """Stored files of the student and of the teachers to run, and why other teachers are not run, by index."""

    student: Sequence[StoredFile]
    teachers: Mapping[int, Sequence[StoredFile]]
    reasons: Mapping[int, str]


@router.post(
    "/predictions",
    response_model=PredictionOut,
    responses=problems(
        *REFERENCE_ERRORS,
        ImageUnreadable,
        InvalidState,
        MalformedRequest,
        NotAvailable,
        PayloadTooLarge,
        UnsupportedMedia,
        InspectorTimeout,
        InspectorUnavailable,
    ),
)
@rate_class("questions")
@form_body(_FORM)
async def predict_image(caller: Reader, job_id: JobId, request: Request, state: State) -> PredictionOut:
    """Classify an image with the student of a job that succeeded, and with its teachers where they are small.

    Nothing is stored. The image is decoded in a process of its own without access to anything else.
    """
    networks = await to_thread.run_sync(_find_networks, state, caller, job_id)
    async with receive_form(request, FormRules(frozenset(), MAX_IMAGE_BYTES, lambda _: None), state.incoming) as form:
        image = await to_thread.run_sync(form.file.path.read_bytes)
    payload = {
        "image": base64.b64encode(image).decode("ascii"),
        "student": [file.to_json() for file in networks.student],
        "teachers": {str(index): [file.to_json() for file in files] for index, files in networks.teachers.items()},
    }
    result = await state.inspector.call("predict", payload)
    return _prediction(job_id, networks, result)


def _find_networks(state: AppState, caller: Caller, job_id: str) -> _Networks:
    """Return the stored networks of a job. Raises :class:`InvalidState` and :class:`NotAvailable`."""
    with state.database.read() as session:
        job = jobs.get(session, caller.project_id, job_id)
        if job.status != "succeeded":
            raise InvalidState(
                f"The job is {job.status}; its student can be tried once it has succeeded.",
                extra={"next_actions": jobs.next_actions(job)},
            )
        method = job.spec["method"]["name"]
        if METHODS[method].params.info.needs.headless:
            raise NotAvailable(f"The student is a backbone without a classifier, as {method} trains it.")
        student = weights_files(session, caller.project_id, job_id)
        found, reasons = _teachers(session, job)
    if sum(file.size_bytes for file in student) > MAX_STUDENT_BYTES:
        raise NotAvailable("The student is too large to be tried here; download it and run it elsewhere.")
    return _Networks(student, found, reasons)


def _teachers(session: Session, job: Job) -> tuple[dict[int, Sequence[StoredFile]], dict[int, str]]:
    """Return the files of the teachers that are stored and small, and why the others are not run."""
    found: dict[int, Sequence[StoredFile]] = {}
    reasons: dict[int, str] = {}
    trained = teachers.find_of_job(session, job.project_id, job.id)
    for index, spec in enumerate(job.spec.get("teachers") or []):
        if index in trained:
            files: Sequence[StoredFile] = parse_stored_files(trained[index].files)
        else:
            try:
                files = _reference_files(session, job.project_id, spec["weights"])
            except NotFound:
                reasons[index] = "its weights are no longer stored"
                continue
        if not files:
            reasons[index] = "its weights are not stored by this service"
        elif sum(file.size_bytes for file in files) > MAX_TEACHER_BYTES:
            reasons[index] = "it is too large to be run here"
        else:
            found[index] = files
    return found, reasons


def _reference_files(session: Session, project_id: str, weights: str) -> Sequence[StoredFile]:
    """Return the files of stored weights; none for those of the hub and those that were trained and deleted since."""
    return weights_files(session, project_id, weights) if weights.startswith(("mdl_", "job_", "ckpt_")) else ()


def _prediction(job_id: str, networks: _Networks, result: Mapping[str, Any]) -> PredictionOut:
    answers = []
    for index in sorted({*networks.teachers, *networks.reasons}):
        classes = result["teachers"].get(str(index))
        reason = networks.reasons.get(index, None if classes else "it has no classifier")
        answers.append(
            TeacherPredictionOut(teacher=index, classes=_classes(classes) if classes else None, reason=reason)
        )
    return PredictionOut(
        job=job_id,
        width=result["width"],
        height=result["height"],
        student=_classes(result["student"]),
        teachers=answers,
    )


def _classes(entries: Sequence[Mapping[str, Any]]) -> list[ClassOut]:
    return [ClassOut(index=entry["index"], name=entry["class"], probability=entry["probability"]) for entry in entries]
