"""``/v1/audit-log``: who changed what."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from api.deps import NO_NUL, Admin, After, Limit, Parts
from api.problems import problems
from api.schemas import Moment, Out, Page
from core.store import audit
from core.store.project_tables import AuditEntry

router = APIRouter(prefix="/v1/audit-log", tags=["project"])

_Word = Annotated[str | None, Query(max_length=64, pattern=NO_NUL)]


class AuditEntryOut(Out):
    """One change, or one refused attempt to sign in."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    created_at: Moment
    key: str = Field(description="The key that did it.")
    action: str = Field(description="E.g. `job.create`, `job.cancel`, `dataset.delete`, `api_key.rotate`.")
    object_id: str | None = Field(description="What was changed; of what was created, the new id.")
    outcome: Literal["done", "refused"]
    request_id: str
    client_address: str


@router.get("", response_model=Page[AuditEntryOut], responses=problems())
def list_audit_log(
    who: Admin,
    parts: Parts,
    *,
    key: Annotated[_Word, Query(description="Only what this key did.")] = None,
    action: Annotated[_Word, Query(description="Only this action.")] = None,
    object_id: Annotated[_Word, Query(description="Only what was done to this object.")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Page[AuditEntryOut]:
    """Every change that was made with the project's keys, and sign-ins to the dashboard, newest first.

    An entry is written in the transaction of the change, so there is none without the other.
    """
    with parts.database.read() as session:
        page = audit.list_entries(
            session, who.project_id, key_id=key, action=action, object_id=object_id, limit=limit, after=after
        )
        return Page(data=[_entry(each) for each in page.items], has_more=page.has_more)


def _entry(entry: AuditEntry) -> AuditEntryOut:
    return AuditEntryOut.model_validate(
        {
            "id": entry.id,
            "created_at": entry.created_at,
            "key": entry.key_id,
            "action": entry.action,
            "object_id": entry.object_id,
            "outcome": entry.outcome,
            "request_id": entry.request_id,
            "client_address": entry.client_address,
        }
    )
