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
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, or_, select, update
from sqlalchemy.orm import Session

from core.errors import Conflict, LastAdminKey, NotAuthenticated
from core.ids import new_id
from core.store.base import UtcDateTime
from core.store.db import utc_now
from core.store.pagination import Page, missing, newest_first, require_id
from core.store.project_tables import ApiKey

SCOPES = ("read", "write", "admin")  # each includes those before it
TOUCH_EVERY = timedelta(minutes=1)  # "last used" need not be exact, and a write a request would cost

_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)  # as some write "never"
_TOKEN = re.compile(r"ps_([0-9a-z]{26})_([0-9a-f]{64})")
_REFUSED = "This API key is unknown, expired or revoked. Send `Authorization: Bearer ps_…`."


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking; where something may change, in which request and from where too."""

    key_id: str
    project_id: str
    scopes: frozenset[str]
    request_id: str = ""
    client_address: str = ""

    def may(self, scope: str) -> bool:
        """Whether a scope that the key has is, or includes, this one."""
        return bool(self.scopes & set(SCOPES[SCOPES.index(scope) :]))


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
    replaces: str | None = None,
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
        replaces=replaces,
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


def active(dialect: str) -> ColumnElement[bool]:
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


def page(session: Session, project_id: str, *, limit: int = 20, after: str | None = None) -> Page[ApiKey]:
    """A part of them. Raises ``InvalidRequest`` for an ``after`` that is no key's id."""
    statement = select(ApiKey).where(ApiKey.project_id == project_id)
    return newest_first(session, statement, ApiKey.id, limit=limit, after=after, prefix="key")


def get(session: Session, project_id: str, key_id: str) -> ApiKey:
    """One key of the project. Raises ``NotFound``."""
    require_id(key_id, "key", "API key")
    key = session.scalars(select(ApiKey).where(ApiKey.id == key_id, ApiKey.project_id == project_id)).one_or_none()
    if key is None:
        raise missing("API key", key_id)
    return key


def named_by(session: Session, token: str) -> ApiKey | None:
    """The key whose token this claims to be, right or wrong: to tell its project that somebody tried."""
    parts = _TOKEN.fullmatch(token)
    return None if parts is None else session.get(ApiKey, f"key_{parts[1]}")


def revoke(session: Session, project_id: str, key_id: str, *, keep_an_admin: bool = False) -> ApiKey:
    """Make a key useless from now on; again is no error.

    Raises ``NotFound``, and with ``keep_an_admin`` ``LastAdminKey`` where no other admin key would be in force.
    """
    key = _locked(session, project_id, key_id)
    if key.revoked_at is not None:
        return key
    if keep_an_admin and _is_admin(session, key) and not _other_admins(session, key):
        raise LastAdminKey(
            f"{key.id} is the project's last admin key in force; make another one first (POST /v1/api-keys with the "
            "scope admin), or rotate this one."
        )
    key.revoked_at = utc_now(session)
    session.flush()
    return key


def rotate(
    session: Session, project_id: str, key_id: str, *, overlap: timedelta, expires_at: datetime | None = None
) -> NewKey:
    """A new key like this one, which is good for ``overlap`` more, but for no longer than it was before.

    The new one lives as long as the old one was to live in all, unless ``expires_at`` is given. Raises ``NotFound``,
    and ``Conflict`` where the key is not in force or was rotated before.
    """
    old = _locked(session, project_id, key_id)
    now = utc_now(session)
    if not _is_in_force(old, now):
        raise Conflict(f"{old.id} is revoked or expired; make a new key with POST /v1/api-keys.")
    successor = session.scalars(select(ApiKey.id).where(ApiKey.project_id == project_id, ApiKey.replaces == old.id))
    if (replaced_by := successor.first()) is not None:
        raise Conflict(f"{old.id} was rotated before, into {replaced_by}; rotate that one, or make a new key.")
    if expires_at is None and old.expires_at is not None:
        expires_at = now + min(old.expires_at - old.created_at, _LAST_MOMENT - now)
    made = create(session, project_id, name=old.name, scopes=old.scopes, expires_at=expires_at, replaces=old.id)
    if overlap:
        old.expires_at = min(now + overlap, old.expires_at or now + overlap)
    else:
        old.revoked_at = now
    session.flush()
    return made


def count_in_force(session: Session, project_id: str) -> int:
    """How many keys of the project are good now."""
    good = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > utc_now(session))
    found = select(func.count()).where(ApiKey.project_id == project_id, ApiKey.revoked_at.is_(None), good)
    return session.scalars(found).one()


def _locked(session: Session, project_id: str, key_id: str) -> ApiKey:
    """A key, with all others of its project: whoever else revokes one of them waits, and sees what this one did."""
    require_id(key_id, "key", "API key")
    mine = select(ApiKey).where(ApiKey.project_id == project_id).order_by(ApiKey.id).with_for_update()
    found = {key.id: key for key in session.scalars(mine.execution_options(populate_existing=True))}
    if key_id not in found:
        raise missing("API key", key_id)
    return found[key_id]


def _other_admins(session: Session, key: ApiKey) -> bool:
    return any(each.id != key.id and _is_admin(session, each) for each in list_keys(session, key.project_id))


def _is_admin(session: Session, key: ApiKey) -> bool:
    return "admin" in key.scopes and _is_in_force(key, utc_now(session))


def _is_in_force(key: ApiKey, now: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def _caller(session: Session, key: ApiKey) -> Caller:
    if not _is_in_force(key, utc_now(session)):
        raise NotAuthenticated(_REFUSED)
    return Caller(key.id, key.project_id, frozenset(key.scopes))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
