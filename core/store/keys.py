"""API keys with tokens ``ps_ID_SECRET``. Only a hash of the secret is stored, so a token is shown once.

The secret has 256 random bits and cannot be guessed, so a plain SHA-256 is as safe as a slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from core.errors import Conflict, LastAdminKey, NotAuthenticated
from core.ids import new_id
from core.store.base import UtcDateTime
from core.store.db import is_postgresql, utc_now
from core.store.pagination import Page, not_found, paginate_newest_first, require_id
from core.store.project_tables import ApiKey
from core.token_errors import TokenExpired

SCOPES = ("read", "write", "admin")  # each scope includes those before it
TOUCH_INTERVAL = timedelta(minutes=1)  # precision of "last used"; avoids one write per request

_MAX_DATETIME = datetime.max.replace(tzinfo=UTC)  # some clients send it for "never"
_TOKEN = re.compile(r"ps_([0-9a-z]{26})_([0-9a-f]{64})")
_INVALID_KEY = "This API key is unknown, expired or revoked. Send `Authorization: Bearer ps_…`."


@dataclass(frozen=True, slots=True)
class Caller:
    """Authenticated caller. Requests that change something also set request id and client address.

    ``key_id`` is the id of an API key, or of the ``subject`` of a token that is valid until ``expires_at``.
    """

    key_id: str
    project_id: str
    scopes: frozenset[str]
    subject: str | None = None
    expires_at: datetime | None = None
    request_id: str = ""
    client_address: str = ""

    def has_scope(self, scope: str) -> bool:
        """Whether a scope of the key equals or includes ``scope``."""
        return bool(self.scopes & set(SCOPES[SCOPES.index(scope) :]))


@dataclass(frozen=True, slots=True)
class NewKey:
    """New key with the only copy of its token."""

    key: ApiKey
    token: str


def create(
    session: Session,
    project_id: str,
    *,
    name: str,
    scopes: Sequence[str] = SCOPES,
    expires_at: datetime | None = None,
    replaces: str | None = None,
) -> NewKey:
    """Create a key; only the return value has its token. Raises ``ValueError`` for an unknown scope."""
    unknown = set(scopes) - set(SCOPES)
    if unknown:
        raise ValueError(f"unknown scopes {sorted(unknown)}; known: {', '.join(SCOPES)}")
    key_id = new_id("key")
    secret = secrets.token_hex(32)
    prefix = f"ps_{key_id.removeprefix('key_')}"
    key = ApiKey(
        id=key_id,
        project_id=project_id,
        name=name,
        prefix=prefix,
        secret_hash=_hash(secret),
        scopes=list(scopes),
        created_at=utc_now(session),
        expires_at=expires_at,
        replaces=replaces,
    )
    session.add(key)
    session.flush()
    return NewKey(key, f"{prefix}_{secret}")


def authenticate(session: Session, token: str) -> Caller:
    """Return the caller of a token; reads only. Raises ``NotAuthenticated``."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        raise NotAuthenticated(_INVALID_KEY)
    key = session.get(ApiKey, f"key_{parts[1]}")
    if key is None or not hmac.compare_digest(key.secret_hash, _hash(parts[2])):
        raise NotAuthenticated(_INVALID_KEY)
    return _to_caller(session, key)


def load_caller(session: Session, key_id: str) -> Caller:
    """Return the caller of a key that was authenticated before (signed cookie). Raises ``NotAuthenticated``."""
    key = session.get(ApiKey, key_id)
    if key is None:
        raise NotAuthenticated(_INVALID_KEY)
    return _to_caller(session, key)


def require_unexpired(session: Session, caller: Caller) -> None:
    """Raise ``TokenExpired`` if the caller's token has expired."""
    if caller.expires_at is not None and caller.expires_at <= utc_now(session):
        raise TokenExpired("The token has expired; get a new one from its issuer.")


def active_key_exists(*, on_postgresql: bool) -> ColumnElement[bool]:
    """Condition: the key is still active. For the WHERE clause of a read on behalf of an authenticated key.

    :func:`active_key_params` returns its parameters.
    """
    now = func.clock_timestamp() if on_postgresql else bindparam("now", type_=UtcDateTime())
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now)
    return select(ApiKey.id).where(ApiKey.id == bindparam("key_id"), ApiKey.revoked_at.is_(None), unexpired).exists()


def active_key_params(session: Session, key_id: str) -> dict[str, Any]:
    """Return the parameters of :func:`active_key_exists`."""
    if is_postgresql(session):
        return {"key_id": key_id}
    return {"key_id": key_id, "now": utc_now(session)}


def touch(session: Session, key_id: str) -> None:
    """Update the time of last use, at most once per ``TOUCH_INTERVAL``."""
    now = utc_now(session)
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now - TOUCH_INTERVAL))
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )


def list_keys(session: Session, project_id: str) -> list[ApiKey]:
    """List the project's keys, newest first, including revoked ones."""
    return list(session.scalars(select(ApiKey).where(ApiKey.project_id == project_id).order_by(ApiKey.id.desc())))


def list_page(session: Session, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[ApiKey]:
    """List one page of the project's keys. Raises ``InvalidRequest`` if ``after`` is not the id of a key."""
    statement = select(ApiKey).where(ApiKey.project_id == project_id)
    return paginate_newest_first(session, statement, ApiKey.id, limit=limit, after=after, prefix="key")


def get(session: Session, project_id: str, key_id: str) -> ApiKey:
    """Load a key of the project. Raises ``NotFound``."""
    require_id(key_id, "key", "API key")
    key = session.scalars(select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == project_id)).one_or_none()
    if key is None:
        raise not_found("API key", key_id)
    return key


def find_by_token(session: Session, token: str) -> ApiKey | None:
    """Find the key that a token names, without checking its secret: to record a refused attempt in its project."""
    parts = _TOKEN.fullmatch(token)
    return None if parts is None else session.get(ApiKey, f"key_{parts[1]}")


def revoke(session: Session, project_id: str, key_id: str, *, keep_last_admin: bool = False) -> ApiKey:
    """Revoke a key; revoking it again changes nothing.

    Raises ``NotFound``, and with ``keep_last_admin`` ``LastAdminKey`` if no other admin key is active.
    """
    key = _lock_keys(session, project_id, key_id)
    if key.revoked_at is not None:
        return key
    if keep_last_admin and _is_admin(session, key) and not _has_other_admin(session, key):
        raise LastAdminKey(
            f"{key.id} is the project's last active admin key; create another one first (POST /v1/api-keys with the "
            "scope admin), or rotate this one."
        )
    key.revoked_at = utc_now(session)
    session.flush()
    return key


def rotate(
    session: Session, project_id: str, key_id: str, *, overlap: timedelta, expires_at: datetime | None = None
) -> NewKey:
    """Create a successor of a key, which itself expires after ``overlap`` or at its earlier expiry.

    The successor has the same lifetime as the old key, unless ``expires_at`` is given. Raises ``NotFound``, and
    ``Conflict`` if the key is not active or was rotated before.
    """
    old = _lock_keys(session, project_id, key_id)
    now = utc_now(session)
    if not _is_active(old, now):
        raise Conflict(f"{old.id} is revoked or expired; create a new key with POST /v1/api-keys.")
    successor = session.scalars(select(ApiKey.id).where(ApiKey.project_id == project_id, ApiKey.replaces == old.id))
    if (replaced_by := successor.first()) is not None:
        raise Conflict(f"{old.id} was already rotated into {replaced_by}; rotate that key, or create a new one.")
    if expires_at is None and old.expires_at is not None:
        expires_at = now + min(old.expires_at - old.created_at, _MAX_DATETIME - now)
    new = create(session, project_id, name=old.name, scopes=old.scopes, expires_at=expires_at, replaces=old.id)
    if overlap:
        old.expires_at = min(now + overlap, old.expires_at or now + overlap)
    else:
        old.revoked_at = now
    session.flush()
    return new


def count_active(session: Session, project_id: str) -> int:
    """Count the active keys of the project."""
    unexpired = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > utc_now(session))
    statement = select(func.count()).where(ApiKey.project_id == project_id, ApiKey.revoked_at.is_(None), unexpired)
    return session.scalars(statement).one()


def _lock_keys(session: Session, project_id: str, key_id: str) -> ApiKey:
    """Load a key and lock all keys of its project, so that concurrent revocations run one after another."""
    require_id(key_id, "key", "API key")
    statement = select(ApiKey).where(ApiKey.project_id == project_id).order_by(ApiKey.id).with_for_update()
    keys = {key.id: key for key in session.scalars(statement.execution_options(populate_existing=True))}
    if key_id not in keys:
        raise not_found("API key", key_id)
    return keys[key_id]


def _has_other_admin(session: Session, key: ApiKey) -> bool:
    return any(other.id != key.id and _is_admin(session, other) for other in list_keys(session, key.project_id))


def _is_admin(session: Session, key: ApiKey) -> bool:
    return "admin" in key.scopes and _is_active(key, utc_now(session))


def _is_active(key: ApiKey, now: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def _to_caller(session: Session, key: ApiKey) -> Caller:
    if not _is_active(key, utc_now(session)):
        raise NotAuthenticated(_INVALID_KEY)
    return Caller(key.id, key.project_id, frozenset(key.scopes))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
