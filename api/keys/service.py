"""Logic of the API key endpoints, without HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from api.keys.schemas import ApiKeyOut, KeyCreate, KeyRotate, NewApiKeyOut
from api.problems import invalid_field
from core.errors import Forbidden, QuotaExceeded
from core.store import keys
from core.store.db import Session, utc_now
from core.store.keys import Caller, NewKey
from core.store.project_tables import ApiKey


def create(session: Session, caller: Caller, request: KeyCreate, *, max_keys: int) -> NewKey:
    """Create a key in the caller's project, which may have ``max_keys`` active keys (0: no limit).

    Raises :class:`InvalidRequest` for an expiry time in the past, :class:`Forbidden` for a scope that the caller
    lacks, and :class:`QuotaExceeded`.
    """
    missing = [scope for scope in request.scopes if not caller.has_scope(scope)]
    if missing:
        raise Forbidden(f"Your key lacks the scope {', '.join(missing)}, so it cannot create a key that has it.")
    scopes = [scope for scope in keys.SCOPES if scope in request.scopes]
    expires_at = _expiry(session, request)
    new_key = keys.create(session, caller.project_id, name=request.name, scopes=scopes, expires_at=expires_at)
    _require_key_quota(session, caller, max_keys)
    return new_key


def rotate(session: Session, caller: Caller, key_id: str, request: KeyRotate, *, max_keys: int) -> NewKey:
    """Replace a key. Raises what :func:`create` and :func:`core.store.keys.rotate` raise."""
    old = keys.get(session, caller.project_id, key_id)
    if not all(caller.has_scope(scope) for scope in old.scopes):
        raise Forbidden("Your key lacks a scope of the key to replace.")
    overlap = timedelta(seconds=request.overlap_seconds)
    new_key = keys.rotate(session, caller.project_id, key_id, overlap=overlap, expires_at=_expiry(session, request))
    _require_key_quota(session, caller, max_keys)
    return new_key


def key_out(key: ApiKey) -> ApiKeyOut:
    """Convert a key row to its response document."""
    return ApiKeyOut.model_validate(_document(key))


def new_key_out(new_key: NewKey) -> NewApiKeyOut:
    """Convert a new key to its response document, the only one with the token."""
    return NewApiKeyOut.model_validate({**_document(new_key.key), "token": new_key.token})


def _document(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "replaces": key.replaces,
    }


def _require_key_quota(session: Session, caller: Caller, max_keys: int) -> None:
    """Check the quota after creating the key. Rate limits apply per key, so the number of keys must be limited."""
    if max_keys and (used := keys.count_active(session, caller.project_id)) > max_keys:
        raise QuotaExceeded(
            f"The project would have {used:,} active keys; its limit is {max_keys:,}. Revoke some first, or rotate "
            "with overlap_seconds 0.",
            extra={"quota": "keys", "limit": max_keys, "used": used},
        )


def _expiry(session: Session, request: KeyCreate | KeyRotate) -> datetime | None:
    if request.expires_at is not None and request.expires_in_days is not None:
        raise invalid_field("/expires_in_days", "set expires_at or expires_in_days, not both")
    now = utc_now(session)
    if request.expires_in_days is not None:
        return now + timedelta(days=request.expires_in_days)
    if request.expires_at is None:
        return None
    if request.expires_at <= now:
        raise invalid_field("/expires_at", "this time is in the past; set a future time, or omit it")
    try:
        return request.expires_at.astimezone(UTC)
    except OverflowError:  # the last hours of the year 9999 in a western time zone
        raise invalid_field("/expires_at", "this is not a date in UTC; omit it for a key without expiry") from None
