"""Webhooks: receivers of events, and the deliveries to them.

``records``: create, change and delete webhooks. ``secrets``: derive their secrets. ``outbox``: write deliveries in the
transaction of an event. ``deliveries``: claim, record, list and repeat them. ``payload``: what is sent. This package is
the facade; other code imports from here.
"""

from core.store.webhooks.deliveries import (
    AttemptResult,
    Backlog,
    ClaimedDelivery,
    claim,
    count_due,
    expire,
    get_backlog,
    list_deliveries,
    record_attempt,
    redeliver,
)
from core.store.webhooks.deliveries import get as get_delivery
from core.store.webhooks.outbox import add_event, add_ingest_end, add_test
from core.store.webhooks.records import NewSecret, change, count, create, delete, get, list_webhooks, rotate
from core.store.webhooks.secrets import SecretKeyChanged, derive_secret, signing_secrets

__all__ = [
    "AttemptResult",
    "Backlog",
    "ClaimedDelivery",
    "NewSecret",
    "SecretKeyChanged",
    "add_event",
    "add_ingest_end",
    "add_test",
    "change",
    "claim",
    "count",
    "count_due",
    "create",
    "delete",
    "derive_secret",
    "expire",
    "get",
    "get_backlog",
    "get_delivery",
    "list_deliveries",
    "list_webhooks",
    "record_attempt",
    "redeliver",
    "rotate",
    "signing_secrets",
]
