"""The HTTP application: its parts put together, from the edge inwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.types import Scope

from api import architectures, audit, docs_page, health, methods, openapi, problems, usage, workers
from api.auth import Authenticator
from api.dashboard.dataset_pages import router as datasets_page_router
from api.dashboard.endpoints import router as dashboard_router
from api.datasets import endpoints as datasets
from api.deps import AppState
from api.headers import StrictTransport
from api.inspector import Inspector
from api.job_watch import JobWatcher
from api.jobs import endpoints as jobs
from api.jobs import outputs as job_files
from api.keys import endpoints as keys
from api.middleware import RequestMiddleware
from api.models import endpoints as models
from api.multipart import FORM_OVERHEAD_BYTES
from api.rate_limit import Rates
from api.request_body import MAX_JSON_BYTES
from api.session_cookie import signing_secret
from api.telemetry import Telemetry
from core.broker import Broker
from core.settings import Settings, load_settings
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, open_database
from core.store.storage_url import open_store

_STALE_SECONDS = 24 * 3600  # an upload that is older was left by a process that died

_ROUTERS = (
    jobs.router,  # first, as a path is looked for in one after the other, and jobs are polled
    job_files.router,
    health.router,
    datasets.router,
    architectures.router,
    models.router,
    methods.router,
    keys.router,
    usage.router,
    audit.router,
    workers.router,
    docs_page.router,
    dashboard_router,
    datasets_page_router,
)
_UPLOAD_PATHS = frozenset({"/v1/datasets", "/v1/models"})


def create_app(settings: Settings, database: Database, store: ArtifactStore, hints: Broker) -> FastAPI:
    """The application with these parts. The caller closes them after it."""
    secret = signing_secret(settings)
    parts = AppState(
        settings=settings,
        database=database,
        store=store,
        hints=hints,
        inspector=Inspector(hints, seconds=settings.inspect_timeout_seconds),
        live=JobWatcher(settings.broker_url),
        telemetry=Telemetry(),
        gate=Authenticator(database, secret, wrong_keys_per_minute=settings.rate_wrong_keys_per_minute),
        rates=Rates(settings),
        cookie_secret=secret,
    )
    app = FastAPI(
        title=openapi.TITLE,
        version=version("potstill"),
        lifespan=_lifespan,
        docs_url=None,  # ours needs no internet: api.docs_page
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        telemetry=_telemetry(),
    )
    app.state.parts = parts
    problems.install(app)
    openapi.install(app)
    for router in _ROUTERS:
        app.include_router(router)
    app.add_middleware(
        RequestMiddleware, observe=parts.telemetry.observe, body_limit=lambda scope: _body_limit(scope, settings)
    )
    if settings.behind_tls:
        app.add_middleware(StrictTransport)
    return app


def make_app() -> FastAPI:
    """The application with the parts that the environment's settings name, for ``uvicorn --factory``."""
    settings = load_settings()
    return create_app(
        settings,
        open_database(settings),
        open_store(settings.resolved_storage_url()),
        Broker(settings.broker_url),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    parts: AppState = app.state.parts
    _remove_stale(parts.incoming)
    tasks = [asyncio.create_task(parts.live.run()), asyncio.create_task(parts.inspector.run())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        await parts.rates.aclose()
        await parts.hints.aclose()


def _telemetry() -> TelemetryConfig:
    """FastAPI's own traces, for whoever runs us with OpenTelemetry; else it would look for it at every request."""
    on = any(name.startswith("OTEL_") for name in os.environ)
    return {"tracing": on, "metrics": on, "logs": on}


def _body_limit(scope: Scope, settings: Settings) -> int:
    if scope["path"] in _UPLOAD_PATHS and _is_form(scope):
        return settings.max_upload_bytes + FORM_OVERHEAD_BYTES
    return MAX_JSON_BYTES


def _is_form(scope: Scope) -> bool:
    return any(name == b"content-type" and b"multipart/form-data" in value.lower() for name, value in scope["headers"])


def _remove_stale(folder: Path) -> None:
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.stat().st_mtime < time.time() - _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
