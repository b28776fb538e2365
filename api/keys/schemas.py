"""An API key on the wire."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from api.datasets.schemas import Name
from api.schemas import Moment, Out
from core.spec.document import StrictModel

Scope = Literal["read", "write", "admin"]

MAX_DAYS = 3650
MAX_OVERLAP_SECONDS = 30 * 24 * 3600
OVERLAP_SECONDS = 24 * 3600

Expiry = Annotated[
    AwareDatetime | None,
    Field(description="When it stops being good (RFC 3339, with the time zone). Null: never."),
]
ExpiryDays = Annotated[float | None, Field(gt=0, le=MAX_DAYS, description="The same, in days from now.")]


class KeyCreate(StrictModel):
    """A key to make."""

    name: Name = Field(description="What it is for.")
    scopes: list[Scope] = Field(
        default=["read", "write"],
        min_length=1,
        max_length=3,
        description="`read` looks, `write` changes too, `admin` manages keys and reads the audit log too.",
    )
    expires_at: Expiry = None
    expires_in_days: ExpiryDays = None


class KeyRotate(StrictModel):
    """How to replace a key."""

    overlap_seconds: int = Field(
        default=OVERLAP_SECONDS,
        ge=0,
        le=MAX_OVERLAP_SECONDS,
        description="For how long the old key stays good. 0: it ends at once.",
    )
    expires_at: Expiry = None
    expires_in_days: ExpiryDays = None


class ApiKeyOut(Out):
    """A key, without its secret, which nobody has but its holder."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    prefix: str = Field(description="How its token begins, to recognise it by.")
    scopes: list[Scope]
    created_at: Moment
    last_used_at: Moment | None = Field(description="To the minute.")
    expires_at: Moment | None
    revoked_at: Moment | None
    replaces: str | None = Field(description="The key that it was rotated from.")


class NewApiKeyOut(ApiKeyOut):
    """A key just made."""

    token: str | None = Field(
        description="The secret, shown this once: only its hash is stored. Null where this repeats the answer to an "
        "earlier request with the same `Idempotency-Key`; if that answer was lost, revoke the key and make another."
    )
