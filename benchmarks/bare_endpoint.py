"""A minimal FastAPI app for ``GET /v1/jobs/{id}`` on our tables: the baseline of the polling benchmark."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from core.store.db import format_time, make_engine
from core.store.jobs import next_actions
from core.store.tables import Job


def make_app(database_url: str, project_id: str) -> FastAPI:
    """Build the app: no key, no middleware, no log, no response model."""
    app, engine = FastAPI(), make_engine(database_url).execution_options(rw=False)

    @app.get("/v1/jobs/{job_id}")
    def get_job(job_id: str) -> JSONResponse:
        with Session(engine, expire_on_commit=False) as session:
            found = session.scalars(select(Job).where(Job.id == job_id, Job.project_id == project_id)).one()
        return JSONResponse(_document(found))

    return app


def _document(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "object": "job",
        "name": job.name,
        "status": job.status,
        "terminal": job.is_terminal,
        "next_actions": next_actions(job),
        "pending_action": job.pending_action,
        "stage": job.stage,
        "stages": job.stages,
        "progress": job.progress,
        "spec": job.spec,
        "attempt": job.attempt,
        "created_at": format_time(job.created_at),
        "started_at": None if job.started_at is None else format_time(job.started_at),
        "finished_at": None if job.finished_at is None else format_time(job.finished_at),
        "error": job.error,
        "metadata": job.metadata_,
        "result": job.result,
    }


if __name__ == "__main__":
    _, url, project, port = sys.argv
    uvicorn.run(make_app(url, project), host="127.0.0.1", port=int(port), log_config=None, access_log=False)
