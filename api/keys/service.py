"""What the key endpoints do, without HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from api.keys.schemas import ApiKeyOut, KeyCreate, KeyRotate, NewApiKeyOut
from core.errors import FieldError, Forbidden, InvalidRequest, QuotaExceeded
from core.store import keys
from core.store.db import Session, utc_now
from core.store.keys import Caller, NewKey
from core.store.project_tables import ApiKey


def create(session: Session, who: Caller, asked: KeyCreate, *, most: int) -> NewKey:
    """Make a key for the caller's project, which may have so many in force (0: no limit).

    Raises :class:`InvalidRequest` where it would be expired already, :class:`Forbidden` where it would be
    allowed more than the caller, and :class:`QuotaExceeded`.
    """
    beyond = [scope for scope in asked.scopes if not who.may(scope)]
    if beyond:
        raise Forbidden(f"This key has no scope {', '.join(beyond)} itself, so it cannot make a key that has.")
    scopes = [scope for scope in keys.SCOPES if scope in asked.scopes]
    expires_at = _expiry(session, asked)
    made = keys.create(session, who.project_id, name=asked.name, scopes=scopes, expires_at=expires_at)
    _require_room(session, who, most)
    return made


def rotate(session: Session, who: Caller, key_id: str, asked: KeyRotate, *, most: int) -> NewKey:
    """Replace a key. Raises what :func:`create` and :func:`core.store.keys.rotate` raise."""
    old = keys.get(session, who.project_id, key_id)
    if not all(who.may(scope) for scope in old.scopes):
        raise Forbidden("This key has fewer scopes than the one that it is to replace.")
    overlap = timedelta(seconds=asked.overlap_seconds)
    made = keys.rotate(session, who.project_id, key_id, overlap=overlap, expires_at=_expiry(session, asked))
    _require_room(session, who, most)
    return made


def key_out(key: ApiKey) -> ApiKeyOut:
    """The key as its project sees it."""
    return ApiKeyOut.model_validate(_document(key))


def new_key_out(made: NewKey) -> NewApiKeyOut:
    """The key with its token, for the one answer that shows it."""
    return NewApiKeyOut.model_validate({**_document(made.key), "token": made.token})


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


def _require_room(session: Session, who: Caller, most: int) -> None:
    """Asked once the key is there. Limits are a key's own, so keys without number would be without limit."""
    if most and (used := keys.count_in_force(session, who.project_id)) > most:
        raise QuotaExceeded(
            f"The project would have {used:,} keys in force and may have {most:,}; revoke some first, or rotate with "
            "overlap_seconds 0.",
            extra={"quota": "keys", "limit": most, "used": used},
        )


def _expiry(session: Session, asked: KeyCreate | KeyRotate) -> datetime | None:
    if asked.expires_at is not None and asked.expires_in_days is not None:
        raise _invalid("/expires_in_days", "give expires_at or expires_in_days, not both")
    now = utc_now(session)
    if asked.expires_in_days is not None:
        return now + timedelta(days=asked.expires_in_days)
    if asked.expires_at is None:
        return None
    if asked.expires_at <= now:
        raise _invalid("/expires_at", "this moment is past; give one to come, or leave it out")
    try:
        return asked.expires_at.astimezone(UTC)
    except OverflowError:  # the last hours of the year 9999 somewhere west
        raise _invalid(
            "/expires_at", "in UTC this is no date any more; for a key without an end leave it out"
        ) from None


def _invalid(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(f"{pointer}: {detail}.", errors=[FieldError(pointer, detail)])
