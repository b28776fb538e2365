"""API keys: ``ps_ID_SECRET``. Only a hash of the secret is stored, so the token is shown once.

The secret has 256 random bits, so a plain SHA-256 is as good as a slow hash: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from core.errors import NotAuthenticated
from core.ids import new_id
from core.store.columns import UtcDateTime
from core.store.db import utc_now
from core.store.pages import missing, require_id
from core.store.tables import ApiKey

SCOPES = ("read", "write", "admin")
TOUCH_EVERY = timedelta(minutes=1)  # "last used" need not be exact, and a write a request would cost

_TOKEN = re.compile(r"ps_([0-9a-z]{26})_([0-9a-f]{64})")
_REFUSED = "This API key is unknown, expired or revoked. Send `Authorization: Bearer ps_…`."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking."""

    key_id: str
    project_id: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made, with the only copy of its token."""

    key: ApiKey
    token: str


def create(
    session: Session,
    project_id: str,
    *,
    name: str,
    scopes: Sequence[str] = SCOPES,
    expires_at: datetime | None = None,
) -> NewKey:
    """Make a key. Its token is in the answer and nowhere else."""
    unknown = set(scopes) - set(SCOPES)
    if unknown:
        raise ValueError(f"unknown scopes {sorted(unknown)}; there are {', '.join(SCOPES)}")
    key_id = new_id("key")
    secret = secrets.token_hex(32)
    start = f"ps_{key_id.removeprefix('key_')}"
    key = ApiKey(
        id=key_id,
        project_id=project_id,
        name=name,
        prefix=start,
        secret_hash=_hash(secret),
        scopes=list(scopes),
        created_at=utc_now(session),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return NewKey(key, f"{start}_{secret}")


def authenticate(session: Session, token: str) -> Caller:
    """Who this token belongs to; a read. Raises ``NotAuthenticated``."""
    parts = _TOKEN.fullmatch(token)
    if parts is None:
        raise NotAuthenticated(_REFUSED)
    key = session.get(ApiKey, f"key_{parts[1]}")
    if key is None or not hmac.compare_digest(key.secret_hash, _hash(parts[2])):
        raise NotAuthenticated(_REFUSED)
    return _caller(session, key)


def caller_of(session: Session, key_id: str) -> Caller:
    """Who a key that was authenticated before (a signed cookie) belongs to. Raises ``NotAuthenticated``."""
    key = session.get(ApiKey, key_id)
    if key is None:
        raise NotAuthenticated(_REFUSED)
    return _caller(session, key)


def in_force(dialect: str) -> ColumnElement[bool]:
    """That a key which was authenticated before is still good: for the WHERE of what is read on its behalf.

    Its parameters are those of :func:`in_force_of`.
    """
    now = func.clock_timestamp() if dialect == "postgresql" else bindparam("now", type_=UtcDateTime())
    good = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > now)
    return select(ApiKey.id).where(ApiKey.id == bindparam("key_id"), ApiKey.revoked_at.is_(None), good).exists()


def in_force_of(session: Session, key_id: str) -> dict[str, Any]:
    """What :func:`in_force` is asked of."""
    if session.get_bind().dialect.name == "postgresql":
        return {"key_id": key_id}
    return {"key_id": key_id, "now": utc_now(session)}


def touch(session: Session, key_id: str) -> None:
    """Remember that a key was used, at most once a minute."""
    now = utc_now(session)
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now - TOUCH_EVERY))
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )


def list_keys(session: Session, project_id: str) -> list[ApiKey]:
    """The project's keys, newest first, revoked ones included."""
    return list(session.scalars(select(ApiKey).where(ApiKey.project_id == project_id).order_by(ApiKey.id.desc())))


def revoke(session: Session, project_id: str, key_id: str) -> ApiKey:
    """Make a key useless from now on; again is no error. Raises ``NotFound``."""
    require_id(key_id, "key", "API key")
    key = session.scalars(
        select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == project_id).with_for_update()
    ).one_or_none()
    if key is None:
        raise missing("API key", key_id)
    if key.revoked_at is None:
        key.revoked_at = utc_now(session)
        session.flush()
    return key


def _caller(session: Session, key: ApiKey) -> Caller:
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= utc_now(session)):
        raise NotAuthenticated(_REFUSED)
    return Caller(key.id, key.project_id, frozenset(key.scopes))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
