"""The dashboard's pages: sign-in, and one job with its actions.

Errors are pages too (:class:`PageRoute`); visitors without a session are redirected to the sign-in page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import structlog
from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Depends, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, Response
from fastapi.routing import APIRoute

from api import session_cookie
from api.auth import Caller
from api.auth_throttle import client_address
from api.compression import compressed_response
from api.dashboard import service, views
from api.dashboard.rendering import STATIC_FILES, STATIC_VERSION, page, pages_for, see_other
from api.deps import AppState, State, get_reader, get_writer, with_request_info
from api.jobs.actions import apply_action
from api.jobs.retry import RetryRequest, retry_with_changes
from api.jobs.schemas import JobAction
from api.problems import problem_headers
from api.rate_limit import rate_class
from api.references import JobId
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

REFUSAL_INTERVAL = timedelta(minutes=1)  # between audit log entries of refused sign-ins with one key
_ONE_DAY = "public, max-age=86400"
_IMMUTABLE = "public, max-age=31536000, immutable"

log = structlog.get_logger(__name__)

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """Route that renders errors as pages, and redirects visitors without a session to the sign-in page."""

    def get_route_handler(self) -> Handler:
        """Wrap the endpoint's handler."""
        handle = super().get_route_handler()

        async def handle_with_pages(request: Request) -> Response:
            with pages_for(request):
                try:
                    return await handle(request)
                except NotAuthenticated:
                    return _to_sign_in(request)
                except PotstillError as error:
                    response = _problem_page(error.status, error.title, error.detail)
                    response.headers.update(problem_headers(error))
                    return response
                except RequestValidationError:
                    return _problem_page(422, "This address is not valid", "A part of it is not valid for this page.")

        return handle_with_pages


router = APIRouter(include_in_schema=False, route_class=PageRoute)

Viewer = Annotated[Caller, Depends(get_reader)]
Operator = Annotated[Caller, Depends(get_writer)]


@router.get("/")
def home() -> Response:
    """Redirect to the job list."""
    return see_other("/jobs")


@router.get("/dashboard/static/{version}/{name:path}")
def static_file(version: str, name: str, request: Request) -> Response:
    """Serve a static file; its URL changes with its content, so browsers may cache it forever."""
    if name not in STATIC_FILES:
        raise NotFound(f"There is no file {name[:80]!r}.")
    caching = _IMMUTABLE if version == STATIC_VERSION else "no-store"
    headers = {"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}
    return compressed_response(request, STATIC_FILES[name].read_bytes(), media_type=_media_type(name), headers=headers)


@router.get("/favicon.ico")
def favicon() -> Response:
    """Serve the icon for browsers and tools that request it without reading a page."""
    return FileResponse(STATIC_FILES["mark.svg"], headers={"Cache-Control": _ONE_DAY}, media_type="image/svg+xml")


@router.get("/login")
def login_page(next: str = "/jobs") -> Response:  # noqa: A002 - the usual name of this query parameter
    """The sign-in page."""
    return page("login.html", section="", next=_local(next), problem=None)


@router.post("/login")
async def login(
    request: Request,
    state: State,
    key: Annotated[str, Form(max_length=500)] = "",
    next: Annotated[str, Form(max_length=2000)] = "/jobs",  # noqa: A002
) -> Response:
    """Exchange a key for a session."""
    if not session_cookie.is_same_origin(request.headers):
        raise Forbidden("Sign in from this page itself, not from another site.")
    try:
        caller = await to_thread.run_sync(state.authenticator.sign_in, request, key.strip())
    except NotAuthenticated:
        await to_thread.run_sync(_record_refusal, state, request, key.strip())
        problem = "This key does not exist or was revoked. Check that you copied all of it."
        return page("login.html", status_code=HTTPStatus.UNAUTHORIZED, section="", next=_local(next), problem=problem)
    await _record_session(state, with_request_info(caller, request), "session.sign_in")
    response = see_other(_local(next))
    response.set_cookie(
        session_cookie.COOKIE_NAME,
        session_cookie.issue_cookie(state.cookie_secret, caller.key_id),
        max_age=session_cookie.MAX_AGE_SECONDS,
        httponly=True,
        samesite="lax",  # links to a job from other sites must work; unsafe requests have their own origin check
        secure=_is_secure(state, request),
    )
    return response


@router.post("/logout")
async def logout(request: Request, state: State) -> Response:
    """End the session in this browser."""
    if not session_cookie.is_same_origin(request.headers):
        raise Forbidden("Sign out from a page of this dashboard.")
    with suppress(NotAuthenticated):  # the session had already ended
        caller = await to_thread.run_sync(state.authenticator.identify, request)
        await _record_session(state, with_request_info(caller, request), "session.sign_out")
    response = see_other("/login")
    response.delete_cookie(session_cookie.COOKIE_NAME, httponly=True, samesite="lax", secure=_is_secure(state, request))
    return response


@router.get("/jobs/{job_id}")
@rate_class("reads")
def job_page(state: State, caller: Viewer, job_id: JobId) -> Response:
    """Show a job."""
    return _job_page(state, caller, job_id)


@router.post("/jobs/{job_id}/retry-fixed")
@rate_class("writes")
async def retry_fixed(state: State, caller: Operator, background: BackgroundTasks, job_id: JobId) -> Response:
    """Retry a job with its error's fix."""
    try:
        job = await retry_with_changes(state, caller, job_id, RetryRequest(apply_fix=True), background)
    except (InvalidState, InvalidRequest) as error:
        problem = error.detail
        return await to_thread.run_sync(lambda: _job_page(state, caller, job_id, problem=problem))
    return see_other(f"/jobs/{job.id}")


@router.post("/jobs/{job_id}/{action}")
@rate_class("writes")
def post_action(
    state: State, caller: Operator, background: BackgroundTasks, job_id: JobId, action: JobAction
) -> Response:
    """Apply the action of a button to a job."""
    try:
        job = apply_action(state, caller, job_id, action, background)
    except InvalidState as error:  # the job's state changed after the page was rendered
        return _job_page(state, caller, job_id, problem=error.detail)
    return see_other(f"/jobs/{job.id}")


async def _record_session(state: AppState, caller: Caller, action: str) -> None:
    """Record a sign-in or sign-out in the audit log; like every change, it counts against the key's rate limit."""
    await state.rate_limiter.require(caller.key_id, "writes")

    def record() -> None:
        with state.change(caller, action, caller.key_id):
            pass  # only the audit log changes

    await to_thread.run_sync(record)


def _record_refusal(state: AppState, request: Request, token: str) -> None:
    """Record a refused sign-in in the audit log of the project whose key the token names.

    Tokens that name no key appear only in the service's log. An attacker may use many addresses, so a project gets at
    most one entry per key and :data:`REFUSAL_INTERVAL`.
    """
    with state.database.read() as session:
        key = keys.find_by_token(session, token)
        log.warning("session.refused", client_address=client_address(request), key_id=key.id if key else None)
        if key is None:
            return
        caller = with_request_info(Caller(key.id, key.project_id, frozenset()), request)
        last = audit.last_refusal(session, caller, "session.sign_in", caller.key_id)
        if last is not None and utc_now(session) - last < REFUSAL_INTERVAL:
            return
    with state.database.write() as session:
        audit.record(session, caller, "session.sign_in", caller.key_id, outcome="refused")


def _is_secure(state: AppState, request: Request) -> bool:
    return state.settings.behind_tls or request.url.scheme == "https"


def _job_page(state: AppState, caller: Caller, job_id: str, *, problem: str | None = None) -> Response:
    alive_seconds = state.settings.alive_seconds
    content = service.read_job(state.database, state.store, caller.project_id, job_id, alive_seconds=alive_seconds)
    may_write = caller.has_scope("write")
    return page(
        "job.html",
        status_code=HTTPStatus.CONFLICT if problem else HTTPStatus.OK,
        section="jobs",
        job=content.job,
        actions=views.actions(content.job) if may_write else [],
        may_write=may_write,
        events=content.events,
        earlier_events=content.events[0]["seq"] - 1 if content.events else 0,
        artifacts=content.artifacts,
        checkpoints=content.checkpoints,
        log=content.log,
        report=content.report,
        lineage=content.lineage,
        settings=views.settings(content.job, content.dataset_names),
        refresh_seconds=views.refresh_seconds(content.job),
        problem=problem,
        spec_json=json.dumps(content.job["spec"], indent=2, ensure_ascii=False),
    )


def _problem_page(status: int, title: str, detail: str) -> Response:
    return page("problem.html", status_code=HTTPStatus(status), section="", title=title, detail=redact(detail))


def _to_sign_in(request: Request) -> Response:
    if request.method != "GET":
        return see_other("/login")
    here = redact(request.url.path + (f"?{request.url.query}" if request.url.query else ""))
    return see_other("/login" if here == "/jobs" else f"/login?next={quote(here, safe='/')}")


def _local(path: str) -> str:
    """Return the path if it stays on this service, otherwise ``/jobs``: prevents open redirects."""
    path = redact(path)
    url = urlsplit(path)
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and not url.scheme and not url.netloc
    return path if is_local and path.isprintable() else "/jobs"


def _media_type(name: str) -> str:
    """Return the media type by file suffix, independent of this machine's MIME table."""
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".txt": "text/plain"}
    return types[name[name.rindex(".") :]]
