"""The HTTP application: state, routers and middleware."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import Scope

from api import architectures, audit, docs_page, guide, health, methods, openapi, problems, usage, workers
from api.auth import Authenticator
from api.cors import CrossOrigin
from api.dashboard.compare import router as compare_router
from api.dashboard.dataset_pages import router as datasets_page_router
from api.dashboard.endpoints import router as dashboard_router
from api.dashboard.job_list import router as job_list_router
from api.dashboard.key_pages import router as keys_page_router
from api.dashboard.method_pages import router as methods_page_router
from api.dashboard.model_pages import router as models_page_router
from api.dashboard.new_job import router as new_job_router
from api.dashboard.project_pages import router as project_pages_router
from api.dashboard.redoc_page import router as redoc_page_router
from api.dashboard.sweep_pages import router as sweeps_page_router
from api.dashboard.webhook_pages import router as webhooks_page_router
from api.dashboard.worker_pages import router as workers_page_router
from api.datasets import endpoints as datasets
from api.deps import AppState
from api.head_requests import HeadRequests
from api.headers import StrictTransport
from api.inspector import Inspector
from api.job_watch import JobWatcher
from api.jobs import endpoints as jobs
from api.jobs import outputs as job_files
from api.jobs import predictions
from api.jobs import pushes as job_pushes
from api.keys import endpoints as keys
from api.middleware import QUIET_PATHS, RequestMiddleware
from api.models import endpoints as models
from api.multipart import FORM_OVERHEAD_BYTES
from api.oidc import TokenVerifier
from api.rate_limit import RateLimiter
from api.request_body import MAX_JSON_BYTES
from api.route_checks import check_routes
from api.sweeps import endpoints as sweeps
from api.telemetry import Telemetry
from api.uploads import endpoints as uploads
from api.uploads.tus import TusResumable
from api.webhooks import endpoints as webhooks
from core import tracing
from core.broker import Broker
from core.settings import Settings
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, open_database
from core.store.storage_url import open_store

_STALE_SECONDS = 24 * 3600  # older uploads were left by a process that died
_STORE_RETRY_SECONDS = 6.0  # a client waits; then it gets 503 with Retry-After

_ROUTERS = (
    jobs.router,  # first: routes are matched in order, and clients poll jobs
    job_files.router,
    sweeps.router,
    predictions.router,
    job_pushes.router,
    health.router,
    datasets.router,
    architectures.router,
    models.router,
    uploads.router,
    methods.router,
    keys.router,
    webhooks.router,
    usage.router,
    audit.router,
    workers.router,
    docs_page.router,
    compare_router,
    job_list_router,
    new_job_router,
    dashboard_router,
    datasets_page_router,
    methods_page_router,
    models_page_router,
    sweeps_page_router,
    workers_page_router,
    keys_page_router,
    webhooks_page_router,
    project_pages_router,
    redoc_page_router,
)
_UPLOAD_PATHS = frozenset({"/v1/datasets", "/v1/models"})  # with a form


def create_app(settings: Settings, database: Database, store: ArtifactStore, broker: Broker) -> FastAPI:
    """Build the application. The caller closes ``database``, ``store`` and ``broker`` after use.

    Raises:
        RuntimeError: a route misses a declaration (:func:`api.route_checks.check_routes`).
    """
    secret = settings.resolved_secret_key()
    state = AppState(
        settings=settings,
        database=database,
        store=store,
        broker=broker,
        inspector=Inspector(broker, timeout_seconds=settings.inspect_timeout_seconds),
        watcher=JobWatcher(settings.broker_url),
        telemetry=Telemetry(),
        authenticator=Authenticator(
            database,
            secret,
            wrong_keys_per_minute=settings.rate_wrong_keys_per_minute,
            verifier=TokenVerifier(settings, database) if settings.oidc_issuer else None,
        ),
        rate_limiter=RateLimiter(settings),
        cookie_secret=secret,
    )
    app = FastAPI(
        title=openapi.TITLE,
        version=version("potstill-server"),
        lifespan=_lifespan,
        docs_url=None,  # api.docs_page serves a page that needs no internet
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        telemetry=_telemetry(),
    )
    app.state.app_state = state
    problems.install(app)
    openapi.install(app)
    for router in _ROUTERS:
        app.include_router(router)
    check_routes(app.routes)
    if settings.guide_dir.is_dir():
        guide.install(app, settings.guide_dir)
    app.add_middleware(HeadRequests, routes=app.router.routes)
    app.add_middleware(
        RequestMiddleware, observe=state.telemetry.observe, body_limit=lambda scope: _body_limit(scope, settings)
    )
    app.add_middleware(TusResumable, prefix=uploads.PREFIX)
    if settings.cors_origins:
        app.add_middleware(CrossOrigin, origins=settings.cors_origins)
    if settings.behind_tls:
        app.add_middleware(StrictTransport)
    return app


def make_app(settings: Settings) -> FastAPI:
    """Build the application with its own connections, as an API process does."""
    return create_app(
        settings,
        open_database(settings),
        open_store(settings.resolved_storage_url(), retry_seconds=_STORE_RETRY_SECONDS),
        Broker(settings.broker_url),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: AppState = app.state.app_state
    _remove_stale(state.incoming)
    tasks = [asyncio.create_task(state.watcher.run()), asyncio.create_task(state.inspector.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await state.rate_limiter.aclose()
        await state.broker.aclose()


def _telemetry() -> TelemetryConfig:
    """Trace requests if this process has traces: one span each. Prometheus and the log have metrics and errors."""
    provider = tracing.provider()
    return {
        "tracing": provider is not None,
        "tracer_provider": provider,
        "operation_spans": False,
        "metrics": False,
        "logs": False,
        "exclude": lambda scope: scope.get("path") in QUIET_PATHS,
    }


def _body_limit(scope: Scope, settings: Settings) -> int:
    if scope["path"] in _UPLOAD_PATHS and _is_form(scope):
        return settings.max_upload_bytes + FORM_OVERHEAD_BYTES
    if scope["path"].endswith("/predictions") and _is_form(scope):
        return predictions.MAX_IMAGE_BYTES + FORM_OVERHEAD_BYTES
    if scope["path"].startswith(f"{uploads.PREFIX}/"):
        return settings.max_upload_bytes
    return MAX_JSON_BYTES


def _is_form(scope: Scope) -> bool:
    return any(name == b"content-type" and b"multipart/form-data" in value.lower() for name, value in scope["headers"])


def _remove_stale(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.stat().st_mtime < time.time() - _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
