# Generated from `potstill._async` by `make docs`; do not edit.
"""``/v1/api-keys``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from potstill._sync.transport import Transport
from potstill.calls import create_call, json_body, object_path, read_call
from potstill.documents import ApiKey, NewApiKey
from potstill.errors import TokenLost


class Keys:
    """``/v1/api-keys``. Requires the scope admin."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        scopes: Sequence[str] = ("read", "write"),
        expires_in_days: float | None = None,
        idempotency_key: str | None = None,
    ) -> NewApiKey:
        """Create a key; only this response contains its ``token``. Raises :class:`TokenLost`."""
        document = {"name": name, "scopes": list(scopes), "expires_in_days": expires_in_days}
        return self._create("/v1/api-keys", document, idempotency_key)

    def rotate(
        self, key_id: str, *, overlap_seconds: int | None = None, idempotency_key: str | None = None
    ) -> NewApiKey:
        """Replace a key, which expires after ``overlap_seconds`` (a day). Raises :class:`TokenLost`."""
        document = {} if overlap_seconds is None else {"overlap_seconds": overlap_seconds}
        return self._create(object_path("api-keys", key_id, "rotate"), document, idempotency_key)

    def get(self, key_id: str) -> ApiKey:
        """Get a key, without its token."""
        return self._transport.read(read_call(object_path("api-keys", key_id)), ApiKey)

    def list(self, *, limit: int | None = None) -> Iterator[ApiKey]:
        """Iterate over the keys, newest first, including revoked ones."""
        return self._transport.pages("/v1/api-keys", ApiKey, limit=limit)

    def revoke(self, key_id: str) -> None:
        """Revoke a key immediately and permanently. Raises :class:`LastAdminKey`."""
        self._transport.delete(object_path("api-keys", key_id))

    def _create(self, path: str, document: Mapping[str, Any], idempotency_key: str | None) -> NewApiKey:
        call = create_call(path, json_body(document), idempotency_key=idempotency_key)
        created = self._transport.read(call, NewApiKey)
        if created.token is None:
            raise TokenLost(f"{created.id} was created, but its token was lost; revoke it and create another key")
        return created
