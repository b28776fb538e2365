"""Tokens of clients, encrypted for the time until they are used (Fernet: AES-128-CBC and HMAC-SHA256).

The key derives from ``POTSTILL_SECRET_KEY`` and the object's id, so a dump or a backup of the database reveals no
token, and a token cannot be moved to another object.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken

_LABEL = "potstill.sealed.v1"  # separates these keys from other uses of the secret key


class SealBroken(Exception):
    """The text was encrypted with another secret key, or for another object."""


def seal(secret_key: str, object_id: str, token: str) -> str:
    """Return the token encrypted for an object."""
    return _cipher(secret_key, object_id).encrypt(token.encode()).decode("ascii")


def unseal(secret_key: str, object_id: str, sealed: str) -> str:
    """Return the token of an object. Raises :class:`SealBroken`."""
    try:
        return _cipher(secret_key, object_id).decrypt(sealed.encode("ascii")).decode()
    except InvalidToken:
        raise SealBroken from None


def _cipher(secret_key: str, object_id: str) -> Fernet:
    key = hmac.digest(secret_key.encode(), f"{_LABEL}:{object_id}".encode(), hashlib.sha256)
    return Fernet(base64.urlsafe_b64encode(key))
