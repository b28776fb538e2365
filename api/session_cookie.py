"""The dashboard's session: a signed cookie with the id of an API key, and a check against cross-site requests.

The cookie holds no secret, only the key's id and the time of the sign-in. Each request looks the key up, so revoking
a key ends its sessions at once. Browsers send cookies on their own, so every unsafe request with the cookie must come
from the dashboard's own pages (:func:`is_same_origin`); a request with ``Authorization: Bearer`` need not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

from itsdangerous import BadSignature, URLSafeTimedSerializer

from core.ids import is_id

COOKIE_NAME = "potstill_session"
MAX_AGE_SECONDS = 14 * 24 * 3600
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_SALT = "potstill.dashboard.session.v1"


def issue_cookie(secret: str, key_id: str) -> str:
    """Return the cookie value for a browser that signed in with this API key."""
    return str(_serializer(secret).dumps(key_id))


def read_cookie(secret: str, value: str, *, max_age_seconds: int = MAX_AGE_SECONDS) -> str | None:
    """Return the id of the key that signed in, or None if the value is forged, damaged or expired."""
    try:
        key_id = _serializer(secret).loads(value, max_age=max_age_seconds)
    except BadSignature:
        return None
    return key_id if isinstance(key_id, str) and is_id(key_id, "key") else None


def is_same_origin(headers: Mapping[str, str]) -> bool:
    """Check that the request comes from a page of this origin, by the headers that browsers set.

    ``Sec-Fetch-Site`` decides if present (HTTPS and localhost); otherwise ``Origin`` must match ``Host``. False
    without either. Header names are looked up in lower case.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = headers.get("origin")
    host = headers.get("host")
    # The scheme is not compared: behind a proxy that terminates TLS this process sees plain HTTP.
    return bool(origin and host) and urlsplit(origin or "").netloc.lower() == (host or "").lower()


def _serializer(secret: str) -> URLSafeTimedSerializer:
    if not secret:
        raise ValueError("the secret that signs cookies is empty")
    return URLSafeTimedSerializer(
        secret, salt=_SALT, signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    )
