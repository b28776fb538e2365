"""Event types that a webhook can subscribe to."""

from __future__ import annotations

from typing import Literal, get_args

WebhookEvent = Literal[
    "job.created",
    "job.started",
    "job.queued",
    "job.paused",
    "job.resumed",
    "job.retried",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "stage.started",
    "stage.finished",
    "worker.lost",
    "push.succeeded",
    "push.failed",
    "tracking.finished",
    "dataset.ready",
    "dataset.failed",
    "model.ready",
    "model.failed",
    "sweep.finished",
]
WebhookFilter = Literal[WebhookEvent, "*"]

WEBHOOK_EVENTS: frozenset[str] = frozenset(get_args(WebhookEvent))
ALL_EVENTS = "*"
SWEEP_FINISHED: WebhookEvent = "sweep.finished"
TEST_EVENT = "webhook.test"  # sent on request to one webhook, whatever its filter
DEFAULT_EVENTS: tuple[WebhookFilter, ...] = ("job.succeeded", "job.failed", "job.cancelled")
