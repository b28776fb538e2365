"""Keys, webhooks with deliveries, and audit log entries of a project, for the dashboard's benchmark."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import insert

from core.ids import new_id
from core.store import keys, webhooks
from core.store.db import Database, utc_now
from core.store.project_tables import AuditEntry

NUM_ENTRIES = 10_000
_ACTIONS = ("job.create", "job.create", "job.create", "job.cancel", "dataset.create", "model.create", "session.sign_in")
_OBJECTS = {"job": "job", "dataset": "ds", "model": "mdl", "session": "key"}
_SECRET_KEY = "k" * 32


class Administration:
    """Fills the pages of one project that its administrators use."""

    def __init__(self, database: Database, project_id: str) -> None:
        self._database = database
        self._project_id = project_id

    def add_keys(self) -> None:
        """Create keys in every state."""
        with self._database.write() as session:
            now = utc_now(session)
            for name, scopes in (("CI of the search team", ("read", "write")), ("Grafana", ("read",))):
                keys.create(session, self._project_id, name=name, scopes=scopes).key.last_used_at = now
            ending = keys.create(session, self._project_id, name="laptop of Ada", expires_at=now + timedelta(days=12))
            keys.rotate(session, self._project_id, ending.key.id, overlap=timedelta(hours=3))
            old = keys.create(session, self._project_id, name="old laptop", scopes=("read",))
            keys.revoke(session, self._project_id, old.key.id)

    def add_audit_entries(self) -> None:
        """Insert entries of the last weeks."""
        with self._database.write() as session:
            now = utc_now(session)
            ids = [key.id for key in keys.list_keys(session, self._project_id)]
            rows = []
            for index in range(NUM_ENTRIES):
                action = _ACTIONS[index % len(_ACTIONS)]
                rows.append(
                    {
                        "id": new_id("aud"),
                        "project_id": self._project_id,
                        "key_id": ids[index % len(ids)],
                        "action": action,
                        "object_id": new_id(_OBJECTS[action.partition(".")[0]]),
                        "outcome": "refused" if index % 29 == 0 and action == "session.sign_in" else "done",
                        "request_id": new_id("req"),
                        "client_address": f"203.0.113.{index % 20}",
                        "created_at": now - timedelta(minutes=3 * (NUM_ENTRIES - index)),
                    }
                )
            session.execute(insert(AuditEntry), rows)

    def add_webhooks(self) -> tuple[str, str]:
        """Create webhooks, and deliveries with every result; return a webhook and one of its failed deliveries."""
        urls = (
            "https://hooks.example.com/potstill",
            "https://chat.example.com/services/T024/B08",
            "https://old.example.com/",
        )
        with self._database.write() as session:
            hooks = [
                webhooks.create(
                    session, self._project_id, url=url, events=events, secret_key=_SECRET_KEY, name=name
                ).webhook
                for url, name, events in zip(
                    urls,
                    ("deployment", None, "old receiver"),
                    (("job.succeeded", "job.failed", "dataset.ready", "model.ready"), ("*",), ("job.failed",)),
                    strict=True,
                )
            ]
            webhooks.change(session, self._project_id, hooks[2].id, status="disabled")
            failed = ""
            for index in range(40):
                webhooks.add_test(session, hooks[0], utc_now(session))
                claimed = webhooks.claim(session, utc_now(session), lease_seconds=60)
                if claimed is None or index == 39:
                    continue
                error = "hooks.example.com answered 503 instead of 2xx" if index % 7 == 3 else None
                result = webhooks.AttemptResult(status=503 if error else 204, error=error, seconds=0.08)
                webhooks.record_attempt(session, claimed, result, utc_now(session))
                failed = claimed.id if error else failed
            return hooks[0].id, failed
