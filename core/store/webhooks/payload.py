"""Payloads of webhooks: type, time, and a summary of the job, dataset, model or sweep. Fetch the rest from the API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from core.store.db import format_time
from core.store.sweep_tables import Sweep
from core.store.tables import Dataset, Event, Job, Model

_RESULT_FIELDS = ("model", "student", "agreement")  # without teachers and compressed files


def event_payload(event: Event, job: Job) -> dict[str, Any]:
    """Return the payload for an event of a job, as the job is in this transaction."""
    return _payload(
        event.type,
        event.created_at,
        event={"id": event.id, "seq": event.seq, "message": event.message, "data": event.data},
        job=_summarize_job(job),
    )


def object_payload(type_: str, row: Dataset | Model, now: datetime) -> dict[str, Any]:
    """Return the payload for a dataset or model that is ready or has failed."""
    kind = type_.partition(".")[0]
    summary = {
        "id": row.id,
        "object": kind,
        "name": row.name,
        "status": row.status,
        "num_classes": row.num_classes,
        "size_bytes": row.size_bytes,
        "error": row.error,
        "created_at": format_time(row.created_at),
        "finished_at": _optional_time(row.finished_at),
    }
    return _payload(type_, now, **{kind: summary})


def sweep_payload(type_: str, sweep: Sweep, counts: Mapping[str, int], now: datetime) -> dict[str, Any]:
    """Return the payload for a sweep whose jobs have ended. ``counts``: its jobs by status."""
    summary = {
        "id": sweep.id,
        "object": "sweep",
        "name": sweep.name,
        "num_jobs": sweep.num_jobs,
        "counts": dict(counts),
        "created_at": format_time(sweep.created_at),
        "finished_at": _optional_time(sweep.finished_at),
    }
    return _payload(type_, now, sweep=summary)


def make_test_payload(type_: str, webhook_id: str, now: datetime) -> dict[str, Any]:
    """Return the payload of a test delivery."""
    return _payload(type_, now, webhook={"id": webhook_id, "object": "webhook"})


def encode_payload(payload: Mapping[str, Any]) -> bytes:
    """Return the request body; the same bytes at each attempt."""
    return json.dumps(payload, separators=(",", ":")).encode()


def _payload(type_: str, time: datetime, **data: Any) -> dict[str, Any]:
    return {"type": type_, "timestamp": format_time(time), "data": data}


def _summarize_job(job: Job) -> dict[str, Any]:
    error, result = job.error, job.result
    return {
        "id": job.id,
        "object": "job",
        "name": job.name,
        "status": job.status,
        "terminal": job.is_terminal,
        "stage": job.stage,
        "attempt": job.attempt,
        "dataset": job.dataset_id,
        "metadata": job.metadata_,
        "error": None if error is None else {"code": error["code"], "message": error["message"]},
        "result": None if result is None else {name: result[name] for name in _RESULT_FIELDS if name in result},
        "created_at": format_time(job.created_at),
        "started_at": _optional_time(job.started_at),
        "finished_at": _optional_time(job.finished_at),
    }


def _optional_time(time: datetime | None) -> str | None:
    return None if time is None else format_time(time)
