"""API keys of the SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from client.documents import ApiKey
from client.errors import TokenLost
from client.transport import Transport, object_path, read_pages


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
    ) -> ApiKey:
        """Create a key; only this response contains its ``token``. Raises :class:`TokenLost`."""
        document = {"name": name, "scopes": list(scopes), "expires_in_days": expires_in_days}
        return self._create("/v1/api-keys", document, idempotency_key)

    def rotate(self, key_id: str, *, overlap_seconds: int | None = None, idempotency_key: str | None = None) -> ApiKey:
        """Replace a key, which expires after ``overlap_seconds`` (a day). Raises :class:`TokenLost`."""
        document = {} if overlap_seconds is None else {"overlap_seconds": overlap_seconds}
        return self._create(object_path("api-keys", key_id, "rotate"), document, idempotency_key)

    def get(self, key_id: str) -> ApiKey:
        """Get a key, without its token."""
        return cast("ApiKey", self._transport.get(object_path("api-keys", key_id)))

    def list(self) -> Iterator[ApiKey]:
        """Iterate over all keys, newest first, including revoked ones."""
        return cast("Iterator[ApiKey]", read_pages(self._transport, "/v1/api-keys"))

    def revoke(self, key_id: str) -> None:
        """Revoke a key immediately and permanently."""
        self._transport.delete(object_path("api-keys", key_id))

    def _create(self, path: str, document: Mapping[str, Any], idempotency_key: str | None) -> ApiKey:
        created = self._transport.create(path, lambda _: {"json": document}, idempotency_key=idempotency_key)
        if created["token"] is None:
            raise TokenLost(f"{created['id']} was created, but its token was lost; revoke it and create another key")
        return cast("ApiKey", created)
