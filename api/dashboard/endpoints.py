"""The dashboard's pages: sign in, the jobs, one job and its buttons. HTML in and out, no branching on jobs.

An error on a page is a page too (:class:`PageRoute`), and whoever is not signed in is sent to the gate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal, cast
from urllib.parse import quote, urlencode, urlsplit

from fastapi import APIRouter, BackgroundTasks, Depends, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.routing import APIRoute

from api.auth import Caller
from api.dashboard import service, session, views
from api.dashboard.rendering import STATIC_FILES, STATIC_VERSION, page
from api.deps import Parts, ServiceParts, reader, writer
from api.jobs.schemas import JobStatus, Move
from core.errors import Forbidden, InvalidState, NotAuthenticated, NotFound, PotstillError
from core.queue import Accelerator
from core.store import keys

JOBS_PER_PAGE = 25
_FILTERS = (("", "All"), *((status, status.capitalize()) for status in views.STATUSES))
_FOR_EVER = "public, max-age=31536000, immutable"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """Answers errors with a page; those without a session are asked to sign in first."""

    def get_route_handler(self) -> Handler:
        """Wrap the endpoint."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except NotAuthenticated:
                return _to_gate(request)
            except PotstillError as error:
                return _problem_page(error.status, error.title, error.detail)
            except RequestValidationError:
                return _problem_page(422, "This address is not valid", "Something in it is not what this page takes.")

        return answer


router = APIRouter(include_in_schema=False, route_class=PageRoute)

Viewer = Annotated[Caller, Depends(reader)]
Operator = Annotated[Caller, Depends(writer)]


@router.get("/")
def home() -> Response:
    """The jobs are the front page."""
    return _see_other("/jobs")


@router.get("/dashboard/static/{version}/{name:path}")
def static_file(version: str, name: str) -> Response:
    """A file of ours; its address changes with its content, so it may be kept for ever."""
    if name not in STATIC_FILES:
        raise NotFound(f"There is no file {name[:80]!r}.")
    caching = _FOR_EVER if version == STATIC_VERSION else "no-store"
    headers = {"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}
    return FileResponse(STATIC_FILES[name], headers=headers, media_type=_media_type(name))


@router.get("/login")
def login_page(next: str = "/jobs") -> Response:  # noqa: A002 - the word that browsers' users know
    """The gate."""
    return page("login.html", section="", next=_local(next), problem=None)


@router.post("/login")
def login(
    request: Request,
    parts: Parts,
    key: Annotated[str, Form(max_length=500)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/jobs",  # noqa: A002
) -> Response:
    """Exchange a key for a session."""
    if not session.is_same_origin(request.headers):
        raise Forbidden("Sign in from this page itself, not from another site.")
    try:
        with parts.database.read() as unit:
            who = keys.authenticate(unit, key.strip())
    except NotAuthenticated:
        problem = "This key is not known here, or it was revoked. Check that it was copied whole."
        return page("login.html", status_code=HTTPStatus.UNAUTHORIZED, section="", next=_local(next), problem=problem)
    answer = _see_other(_local(next))
    answer.set_cookie(
        session.COOKIE_NAME,
        session.issue_cookie(parts.cookie_secret, who.key_id),
        max_age=session.MAX_AGE_SECONDS,
        httponly=True,
        samesite="lax",  # a link to a job from a chat must work; unsafe requests prove their origin apart
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
def logout(request: Request) -> Response:
    """End the session in this browser."""
    if not session.is_same_origin(request.headers):
        raise Forbidden("Sign out from a page of this dashboard.")
    answer = _see_other("/login")
    answer.delete_cookie(session.COOKIE_NAME, httponly=True, samesite="lax", secure=request.url.scheme == "https")
    return answer


@router.get("/jobs")
def jobs_page(
    request: Request, parts: Parts, who: Viewer, status: JobStatus | Literal[""] = "", after: str | None = None
) -> Response:
    """The jobs, newest first."""
    found = service.list_jobs(
        parts.database, who.project_id, status=status or None, limit=JOBS_PER_PAGE, after=after or None
    )
    here = {"status": status} if status else {}
    older = {**here, "after": found.jobs[-1]["id"]} if found.has_more else None
    return page(
        "jobs.html",
        section="jobs",
        jobs=found.jobs,
        status=status,
        filters=_FILTERS,
        refresh_seconds=views.list_refresh_seconds(found.jobs),
        older=_address("/jobs", older) if older else None,
        newest=_address("/jobs", here) if after else None,
        base_url=str(request.base_url).rstrip("/"),
    )


@router.get("/jobs/{job_id}")
def job_page(parts: Parts, who: Viewer, job_id: str) -> Response:
    """One job."""
    return _job_page(parts, who, job_id)


@router.post("/jobs/{job_id}/{move}")
def move_job(parts: Parts, who: Operator, background: BackgroundTasks, job_id: str, move: Move) -> Response:
    """A button was pressed."""
    try:
        job = service.move_job(parts.database, who.project_id, job_id, move)
    except InvalidState as error:  # the state moved on while the reader looked at the button
        return _job_page(parts, who, job_id, problem=error.detail)
    background.add_task(parts.hints.changed, job.id)
    if job.status == "queued":
        background.add_task(parts.hints.look_for_jobs, cast("Accelerator", job.accelerator))
    return _see_other(f"/jobs/{job.id}")


def _job_page(parts: ServiceParts, who: Caller, job_id: str, *, problem: str | None = None) -> Response:
    found = service.read_job(parts.database, who.project_id, job_id)
    may_write = bool({"write", "admin"} & set(who.scopes))
    return page(
        "job.html",
        status_code=HTTPStatus.CONFLICT if problem else HTTPStatus.OK,
        section="jobs",
        job=found.job,
        moves=views.moves(found.job) if may_write else [],
        events=found.events,
        earlier_events=found.events[0]["seq"] - 1 if found.events else 0,
        artifacts=found.artifacts,
        facts=views.facts(found.job, found.dataset_name),
        refresh_seconds=views.refresh_seconds(found.job),
        problem=problem,
        spec_json=json.dumps(found.job["spec"], indent=2, ensure_ascii=False),
    )


def _problem_page(status: int, title: str, detail: str) -> Response:
    return page("problem.html", status_code=HTTPStatus(status), section="", title=title, detail=detail)


def _to_gate(request: Request) -> Response:
    if request.method != "GET":
        return _see_other("/login")
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return _see_other("/login" if here == "/jobs" else f"/login?next={quote(here, safe='/')}")


def _see_other(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=HTTPStatus.SEE_OTHER, headers={"Cache-Control": "no-store"})


def _address(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _local(path: str) -> str:
    """The path if it stays on this service; an open redirect would send people elsewhere with our name on it."""
    parts = urlsplit(path)
    stays = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return path if stays and path.isprintable() else "/jobs"


def _media_type(name: str) -> str:
    """By name, not by what this machine's MIME table says of it."""
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
    return types[name[name.rindex(".") :]]
