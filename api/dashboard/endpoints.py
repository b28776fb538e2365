"""The dashboard's pages: sign in, the jobs, one job and its buttons. HTML in and out, no branching on jobs.

An error on a page is a page too (:class:`PageRoute`), and whoever is not signed in is sent to the gate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode, urlsplit

import structlog
from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Depends, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, RedirectResponse, Response
from fastapi.routing import APIRoute

from api import session_cookie
from api.auth import Caller
from api.auth_throttle import client_address
from api.dashboard import service, views
from api.dashboard.rendering import STATIC_FILES, STATIC_VERSION, page
from api.deps import AppState, Parts, from_request, reader, writer
from api.jobs.actions import move_job
from api.jobs.retry import RetryRequest, retry_changed
from api.jobs.schemas import JobAction, JobStatus
from api.problems import problem_headers
from core.errors import (
    Forbidden,
    InvalidRequest,
    InvalidState,
    NotAuthenticated,
    NotFound,
    PotstillError,
)
from core.redaction import redact
from core.store import audit, keys
from core.store.db import utc_now

JOBS_PER_PAGE = 25
REFUSALS_TOLD_EVERY = timedelta(minutes=1)  # of one key
_FILTERS = (("", "All"), *((status, status.capitalize()) for status in views.STATUSES))
_FOR_EVER = "public, max-age=31536000, immutable"

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """Answers errors with a page; those without a session are asked to sign in first."""

    def get_route_handler(self) -> Handler:
        """Wrap the endpoint."""
        handle = super().get_route_handler()

        async def served(request: Request) -> Response:
            try:
                return await handle(request)
            except NotAuthenticated:
                return _to_gate(request)
            except PotstillError as error:
                answer = _problem_page(error.status, error.title, error.detail)
                answer.headers.update(problem_headers(error))
                return answer
            except RequestValidationError:
                return _problem_page(422, "This address is not valid", "Something in it is not what this page takes.")

        return served


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
async def login(
    request: Request,
    parts: Parts,
    key: Annotated[str, Form(max_length=500)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/jobs",  # noqa: A002
) -> Response:
    """Exchange a key for a session."""
    if not session_cookie.is_same_origin(request.headers):
        raise Forbidden("Sign in from this page itself, not from another site.")
    try:
        who = await to_thread.run_sync(parts.gate.sign_in, request, key.strip())
    except NotAuthenticated:
        await to_thread.run_sync(_note_refusal, parts, request, key.strip())
        problem = "This key is not known here, or it was revoked. Check that it was copied whole."
        return page("login.html", status_code=HTTPStatus.UNAUTHORIZED, section="", next=_local(next), problem=problem)
    await _note(parts, from_request(who, request), "session.sign_in")
    answer = _see_other(_local(next))
    answer.set_cookie(
        session_cookie.COOKIE_NAME,
        session_cookie.issue_cookie(parts.cookie_secret, who.key_id),
        max_age=session_cookie.MAX_AGE_SECONDS,
        httponly=True,
        samesite="lax",  # a link to a job from a chat must work; unsafe requests prove their origin apart
        secure=_is_secure(parts, request),
    )
    return answer


@router.post("/logout")
async def logout(request: Request, parts: Parts) -> Response:
    """End the session in this browser."""
    if not session_cookie.is_same_origin(request.headers):
        raise Forbidden("Sign out from a page of this dashboard.")
    with suppress(NotAuthenticated):  # the session was over before
        who = await to_thread.run_sync(parts.gate.identify, request)
        await _note(parts, from_request(who, request), "session.sign_out")
    answer = _see_other("/login")
    answer.delete_cookie(session_cookie.COOKIE_NAME, httponly=True, samesite="lax", secure=_is_secure(parts, request))
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


@router.post("/jobs/{job_id}/retry-fixed")
async def retry_fixed(parts: Parts, who: Operator, background: BackgroundTasks, job_id: str) -> Response:
    """Retry a job with its error's own fix."""
    try:
        job = await retry_changed(parts, who, job_id, RetryRequest(apply_fix=True), background)
    except (InvalidState, InvalidRequest) as error:
        problem = error.detail
        return await to_thread.run_sync(lambda: _job_page(parts, who, job_id, problem=problem))
    return _see_other(f"/jobs/{job.id}")


@router.post("/jobs/{job_id}/{move}")
def post_action(parts: Parts, who: Operator, background: BackgroundTasks, job_id: str, move: JobAction) -> Response:
    """A button was pressed."""
    try:
        job = move_job(parts, who, job_id, move, background)
    except InvalidState as error:  # the state moved on while the reader looked at the button
        return _job_page(parts, who, job_id, problem=error.detail)
    return _see_other(f"/jobs/{job.id}")


async def _note(parts: AppState, who: Caller, action: str) -> None:
    """Write in the audit log that a session began or ended; as every change, it counts against the key's rates."""
    await parts.rates.require(who.key_id, "writes")

    def note() -> None:
        with parts.change(who, action, who.key_id):
            pass  # nothing else changes

    await to_thread.run_sync(note)


def _note_refusal(parts: AppState, request: Request, token: str) -> None:
    """Tell the project of the key that this claims to be. What claims to be none of ours is in the log alone.

    Whoever tries may do so from many addresses, so their tries are no reason to write each time: a project is told
    once in a while, and nothing is written for what is nobody's key.
    """
    with parts.database.read() as unit:
        claimed = keys.named_by(unit, token)
        log.warning("session.refused", client_address=client_address(request), key_id=claimed.id if claimed else None)
        if claimed is None:
            return
        who = from_request(Caller(claimed.id, claimed.project_id, frozenset()), request)
        told = audit.last_refusal(unit, who, "session.sign_in", who.key_id)
        if told is not None and utc_now(unit) - told < REFUSALS_TOLD_EVERY:
            return
    with parts.database.write() as unit:
        audit.record(unit, who, "session.sign_in", who.key_id, outcome="refused")


def _is_secure(parts: AppState, request: Request) -> bool:
    return parts.settings.behind_tls or request.url.scheme == "https"


def _job_page(parts: AppState, who: Caller, job_id: str, *, problem: str | None = None) -> Response:
    found = service.read_job(parts.database, who.project_id, job_id)
    may_write = who.may("write")
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
    return page("problem.html", status_code=HTTPStatus(status), section="", title=title, detail=redact(detail))


def _to_gate(request: Request) -> Response:
    if request.method != "GET":
        return _see_other("/login")
    here = redact(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
    return _see_other("/login" if here == "/jobs" else f"/login?next={quote(here, safe='/')}")


def _see_other(path: str) -> RedirectResponse:
    return RedirectResponse(path, status_code=HTTPStatus.SEE_OTHER, headers={"Cache-Control": "no-store"})


def _address(path: str, query: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path


def _local(path: str) -> str:
    """The path if it stays on this service; an open redirect would send people elsewhere with our name on it."""
    path = redact(path)
    parts = urlsplit(path)
    stays = path.startswith("/") and not path.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    return path if stays and path.isprintable() else "/jobs"


def _media_type(name: str) -> str:
    """By name, not by what this machine's MIME table says of it."""
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
    return types[name[name.rindex(".") :]]
