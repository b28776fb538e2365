"""Secrets of webhooks, derived from the service's secret key and a random salt.

A signature needs the secret itself, so a hash is not enough. The database holds only the salt and a hash: neither a
dump nor a backup is enough to sign. After a change of ``POTSTILL_SECRET_KEY`` the hash does not match, and deliveries
fail with a message instead of carrying a signature that no receiver accepts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from datetime import datetime

from core.errors import Unavailable
from core.store.webhook_tables import Webhook

_PREFIX = "whsec_"  # of Standard Webhooks
_LABEL = "potstill.webhook.v1"  # separates these secrets from other uses of the secret key
_SALT_BYTES = 24


class SecretKeyChanged(Unavailable):
    """The webhook's secret was made with another ``POTSTILL_SECRET_KEY``; rotate the webhook's secret."""

    code = "webhook_secret_key_changed"


def new_salt() -> str:
    """Return a random salt for a new secret."""
    return secrets.token_hex(_SALT_BYTES)


def derive_secret(secret_key: str, webhook_id: str, salt: str) -> str:
    """Return the secret in the format of Standard Webhooks: ``whsec_`` and 32 bytes in base 64."""
    digest = hmac.digest(secret_key.encode(), f"{_LABEL}:{webhook_id}:{salt}".encode(), hashlib.sha256)
    return _PREFIX + base64.b64encode(digest).decode("ascii")


def hash_secret(secret: str) -> str:
    """Return the hash by which a secret is recognized; the secret has 256 bits, so a plain hash is safe."""
    return hashlib.sha256(secret.encode()).hexdigest()


def signing_secrets(secret_key: str, webhook: Webhook, now: datetime) -> list[str]:
    """Return the secrets to sign with: the current one and, during a rotation's overlap, the one before.

    Raises :class:`SecretKeyChanged`.
    """
    current = derive_secret(secret_key, webhook.id, webhook.secret_salt)
    if not hmac.compare_digest(hash_secret(current), webhook.secret_hash):
        raise SecretKeyChanged(
            "POTSTILL_SECRET_KEY differs from the one that made this webhook's secret. Give the scheduler the key of "
            f"the API, or rotate the secret with POST /v1/webhooks/{webhook.id}/rotate."
        )
    if webhook.previous_salt is None or webhook.previous_expires_at is None or webhook.previous_expires_at <= now:
        return [current]
    return [current, derive_secret(secret_key, webhook.id, webhook.previous_salt)]
