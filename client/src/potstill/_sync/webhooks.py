# Generated from `potstill._async` by `make docs`; do not edit.
"""``/v1/webhooks``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from potstill._sync.transport import Transport
from potstill.calls import Call, create_call, json_body, object_path, read_call
from potstill.documents import Delivery, NewWebhook, Webhook
from potstill.errors import TokenLost


class Webhooks:
    """``/v1/webhooks``: signed requests of the service to your URL, one for each event (Standard Webhooks)."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        url: str,
        *,
        events: Sequence[str] | None = None,
        name: str | None = None,
        job: str | None = None,
        idempotency_key: str | None = None,
    ) -> NewWebhook:
        """Create a webhook; only this response contains its ``secret``. Raises :class:`TokenLost`.

        ``events`` are types such as ``job.succeeded``; ``*`` stands for all. ``job`` limits them to one job.
        """
        document = {"url": url, "events": None if events is None else list(events), "name": name, "job": job}
        sent = {field: value for field, value in document.items() if value is not None}
        return self._create("/v1/webhooks", sent, idempotency_key)

    def get(self, webhook_id: str) -> Webhook:
        """Get a webhook, without its secret."""
        return self._transport.read(read_call(object_path("webhooks", webhook_id)), Webhook)

    def list(self, *, limit: int | None = None) -> Iterator[Webhook]:
        """Iterate over the webhooks, newest first."""
        return self._transport.pages("/v1/webhooks", Webhook, limit=limit)

    def change(
        self,
        webhook_id: str,
        *,
        url: str | None = None,
        events: Sequence[str] | None = None,
        name: str | None = None,
        status: Literal["enabled", "disabled"] | None = None,
    ) -> Webhook:
        """Change a webhook; arguments that are omitted stay as they are."""
        document = {"url": url, "events": None if events is None else list(events), "name": name, "status": status}
        sent = {field: value for field, value in document.items() if value is not None}
        call = Call("PATCH", object_path("webhooks", webhook_id), repeatable=True, body=json_body(sent))
        return self._transport.read(call, Webhook)

    def delete(self, webhook_id: str) -> None:
        """Delete a webhook with its deliveries."""
        self._transport.delete(object_path("webhooks", webhook_id))

    def rotate(
        self, webhook_id: str, *, overlap_seconds: int | None = None, idempotency_key: str | None = None
    ) -> NewWebhook:
        """Replace the secret; for ``overlap_seconds`` (a day) deliveries carry both signatures."""
        document = {} if overlap_seconds is None else {"overlap_seconds": overlap_seconds}
        return self._create(object_path("webhooks", webhook_id, "rotate"), document, idempotency_key)

    def test(self, webhook_id: str, *, idempotency_key: str | None = None) -> Delivery:
        """Send a delivery of the type ``webhook.test``."""
        call = create_call(object_path("webhooks", webhook_id, "test"), idempotency_key=idempotency_key)
        return self._transport.read(call, Delivery)

    def deliveries(self, webhook_id: str, *, status: str | None = None, limit: int | None = None) -> Iterator[Delivery]:
        """Iterate over the deliveries, newest first, with their attempts."""
        path = object_path("webhooks", webhook_id, "deliveries")
        return self._transport.pages(path, Delivery, limit=limit, status=status)

    def get_delivery(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Get a delivery."""
        path = object_path("webhooks", webhook_id, "deliveries", delivery_id)
        return self._transport.read(read_call(path), Delivery)

    def redeliver(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send a delivery again now, with the same id."""
        # Not repeatable: each request starts a new attempt.
        path = object_path("webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
        return self._transport.read(Call("POST", path, repeatable=False), Delivery)

    def _create(self, path: str, document: Mapping[str, Any], idempotency_key: str | None) -> NewWebhook:
        call = create_call(path, json_body(document), idempotency_key=idempotency_key)
        created = self._transport.read(call, NewWebhook)
        if created.secret is None:
            raise TokenLost(f"{created.id} was created, but its secret was lost; rotate the secret")
        return created
