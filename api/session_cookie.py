"""The dashboard's session: a signed cookie that names an API key, and the check that guards its use.

The cookie holds no secret: it says which key signed in, and when. Whoever reads it must still look the
key up, so revoking a key ends its sessions at once. A cookie is sent by the browser on its own, so every
unsafe request that is authenticated by it must prove that it comes from our own pages
(:func:`is_same_origin`); a request with ``Authorization: Bearer`` needs no such proof.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer

from core.ids import is_id
from core.settings import Settings

COOKIE_NAME = "potstill_session"
MAX_AGE_SECONDS = 14 * 24 * 3600
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_SALT = "potstill.dashboard.session.v1"


def signing_secret(settings: Settings) -> str:
    """The secret that signs cookies: the setting, else one made on first start and kept in ``HOME/secret-key``.

    Several API processes on one home may call this at once: the first file to be linked into place wins.
    """
    configured = settings.secret_key.get_secret_value()
    if configured:
        return configured
    path = settings.home / "secret-key"
    if not path.exists():
        _write_once(path, secrets.token_urlsafe(32))
    return path.read_text(encoding="ascii").strip()


def issue_cookie(secret: str, key_id: str) -> str:
    """The cookie's value for a browser that signed in with this API key."""
    return str(_serializer(secret).dumps(key_id))


def read_cookie(secret: str, value: str, *, max_age_seconds: int = MAX_AGE_SECONDS) -> str | None:
    """The id of the key that signed in, or ``None`` if the value is forged, damaged or too old."""
    try:
        key_id = _serializer(secret).loads(value, max_age=max_age_seconds)
    except BadSignature:
        return None
    return key_id if isinstance(key_id, str) and is_id(key_id, "key") else None


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Say whether a browser vouches that the request comes from a page of this very origin.

    ``Sec-Fetch-Site`` decides where it is sent (HTTPS and localhost); elsewhere ``Origin`` must name
    the host that was asked. Without either, nobody vouches. Header names are looked up in lower case.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    host = headers.get("host")
    # The scheme is left out on purpose: behind a proxy that ends TLS this process sees plain HTTP.
    return bool(origin and host) and urlsplit(origin or "").netloc.lower() == (host or "").lower()


def _serializer(secret: str) -> URLSafeTimedSerializer:
    if not secret:
        raise ValueError("a cookie cannot be signed with an empty secret")
    return URLSafeTimedSerializer(
        secret, salt=_SALT, signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    )


def _write_once(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            return  # another process was first; its secret is the one
    finally:
        beside.unlink()
