"""Schemas of API keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from api.datasets.schemas import Name
from api.schemas import Out, Timestamp
from core.spec.document import StrictModel

Scope = Literal["read", "write", "admin"]

MAX_DAYS = 3650
MAX_OVERLAP_SECONDS = 30 * 24 * 3600
OVERLAP_SECONDS = 24 * 3600

Expiry = Annotated[
    AwareDatetime | None,
    Field(description="Expiry time (RFC 3339, with the time zone). Null: never."),
]
ExpiryDays = Annotated[float | None, Field(gt=0, le=MAX_DAYS, description="Expiry time in days from now.")]


class KeyCreate(StrictModel):
    """An API key to create."""

    name: Name = Field(description="Purpose of the key.")
    scopes: list[Scope] = Field(
        default=["read", "write"],
        min_length=1,
        max_length=3,
        description="`read` allows reads, `write` changes, `admin` managing keys and reading the audit log.",
    )
    expires_at: Expiry = None
    expires_in_days: ExpiryDays = None


class KeyRotate(StrictModel):
    """How to replace an API key."""

    overlap_seconds: int = Field(
        default=OVERLAP_SECONDS,
        ge=0,
        le=MAX_OVERLAP_SECONDS,
        description="How long the old key stays valid. 0: it expires at once.",
    )
    expires_at: Expiry = None
    expires_in_days: ExpiryDays = None


class ApiKeyOut(Out):
    """An API key without its secret, which the service does not store."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    prefix: str = Field(description="First characters of its token, to recognize it.")
    scopes: list[Scope]
    created_at: Timestamp
    last_used_at: Timestamp | None = Field(description="Accurate to a minute.")
    expires_at: Timestamp | None
    revoked_at: Timestamp | None
    replaces: str | None = Field(description="Id of the key that this key replaces.")


class NewApiKeyOut(ApiKeyOut):
    """A newly created API key."""

    token: str | None = Field(
        description="The secret, returned only once: the service stores only its hash. Null in a repeated response to "
        "the same `Idempotency-Key`; if the first response was lost, revoke the key and create another one."
    )
