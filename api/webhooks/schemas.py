"""Schemas of webhooks and their deliveries."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from api.datasets.schemas import Name
from api.schemas import Out, Timestamp
from core.fetch.targets import MAX_URL_CHARACTERS
from core.spec.document import StrictModel
from core.spec.webhook_events import DEFAULT_EVENTS, WebhookFilter

MAX_OVERLAP_SECONDS = 7 * 24 * 3600
OVERLAP_SECONDS = 24 * 3600

Url = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS),
    Field(description="An https URL with a public address.", examples=["https://example.com/hooks/potstill"]),
]
Events = Annotated[
    list[WebhookFilter],
    Field(min_length=1, max_length=32, description="Event types to deliver; `*` stands for all of them."),
]
DeliveryStatus = Literal["pending", "succeeded", "failed"]


def _without_duplicates(events: list[WebhookFilter]) -> list[WebhookFilter]:
    return list(dict.fromkeys(events))


class WebhookCreate(StrictModel):
    """A webhook to create."""

    name: Name | None = Field(default=None, description="Purpose of the webhook.")
    url: Url
    events: Events = Field(default=list(DEFAULT_EVENTS))
    job: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="Deliver only events of this job: an id, unique name or unique id prefix. Null: of the project.",
    )

    _unique = field_validator("events")(_without_duplicates)


class WebhookChange(StrictModel):
    """Fields of a webhook to change; omitted fields stay unchanged."""

    name: Name | None = Field(default=None, description="Null removes the name.")
    url: Url | None = Field(default=None, description="Also the address of deliveries that are still pending.")
    events: Events | None = None
    status: Literal["enabled", "disabled"] | None = Field(
        default=None,
        description="`disabled`: new events are not delivered and pending deliveries end as failed. `enabled` ends it.",
    )

    @field_validator("url", "events", "status")
    @classmethod
    def _require_value(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("null is not a value of this field; omit the field to leave it unchanged")
        return value

    @field_validator("events")
    @classmethod
    def _unique(cls, events: list[WebhookFilter]) -> list[WebhookFilter]:
        return _without_duplicates(events)


class WebhookRotate(StrictModel):
    """How to replace the secret of a webhook."""

    overlap_seconds: int = Field(
        default=OVERLAP_SECONDS,
        ge=0,
        le=MAX_OVERLAP_SECONDS,
        description="How long deliveries are signed with the old secret too.",
    )


class WebhookOut(Out):
    """A webhook without its secret."""

    id: str
    object: Literal["webhook"] = "webhook"
    name: str | None
    url: str = Field(description="Without its query, which may be a secret.")
    events: list[str]
    job: str | None = Field(description="The job whose events are delivered; null: all of the project.")
    status: Literal["enabled", "disabled"]
    disabled_reason: Literal["request", "failing", "gone"] | None = Field(
        description="`request`: a client disabled it. `failing`: no delivery succeeded for about three days. `gone`: "
        "the receiver answered 410."
    )
    failing_since: Timestamp | None = Field(description="First failed attempt since the last success.")
    last_success_at: Timestamp | None
    previous_secret_expires_at: Timestamp | None = Field(
        description="Until this time deliveries are signed with the secret before the last rotation too."
    )
    created_at: Timestamp


class NewWebhookOut(WebhookOut):
    """A webhook with a new secret."""

    secret: str | None = Field(
        description="Verifies signatures (Standard Webhooks); returned only once. Null in a repeated response to the "
        "same `Idempotency-Key`; if the first response was lost, rotate the secret."
    )


class AttemptOut(Out):
    """One attempt to deliver."""

    attempt: int
    at: str = Field(description="End of the attempt (RFC 3339).")
    status: int | None = Field(description="HTTP status of the response; null if there was none.")
    error: str | None = Field(description="Why it failed; null if it succeeded.")
    seconds: float


class DeliveryOut(Out):
    """The delivery of one event to one webhook."""

    id: str = Field(description="The header `webhook-id`; the same at each attempt.")
    object: Literal["webhook_delivery"] = "webhook_delivery"
    webhook: str
    type: str
    event: str = Field(description="Id of the event.")
    object_id: str | None = Field(description="The job, dataset, model or sweep of the event; null for a test.")
    status: DeliveryStatus = Field(description="`failed`: it is not attempted again, unless it is redelivered.")
    attempts: list[AttemptOut] = Field(description="The last 20 attempts.")
    next_attempt_at: Timestamp | None = Field(description="Null when the delivery has ended.")
    payload: dict[str, Any] = Field(description="The body of the request.")
    created_at: Timestamp
    finished_at: Timestamp | None
