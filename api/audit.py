"""``/v1/audit-log``: changes to the project's objects, by API key."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from api.deps import Admin, After, Limit, State
from api.problems import problems
from api.rate_limit import rate_class
from api.schemas import Out, Page, Timestamp
from api.time_params import Time, to_utc
from core.errors import AmbiguousReference
from core.ids import has_id_form
from core.spec.patterns import NO_NUL
from core.store import audit, names
from core.store.project_tables import AuditEntry

router = APIRouter(prefix="/v1/audit-log", tags=["project"])

_Filter = Annotated[str | None, Query(max_length=64, pattern=NO_NUL)]


class AuditEntryOut(Out):
    """A change, or a refused attempt to sign in."""

    id: str
    object: Literal["audit_entry"] = "audit_entry"
    created_at: Timestamp
    key: str = Field(description="Id of the key that was used, or `sub_…` for a token.")
    subject: str | None = Field(description="Subject of the token; null for a key.")
    action: str = Field(description="E.g. `job.create`, `job.cancel`, `dataset.delete`, `api_key.rotate`.")
    object_id: str | None = Field(description="Id of the changed or created object.")
    outcome: Literal["done", "refused"]
    request_id: str
    client_address: str


@router.get("", response_model=Page[AuditEntryOut], responses=problems(AmbiguousReference))
@rate_class("reads")
def list_audit_log(
    caller: Admin,
    state: State,
    *,
    key: Annotated[_Filter, Query(description="Only entries of this key.")] = None,
    action: Annotated[_Filter, Query(description="Only entries with this action.")] = None,
    object_id: Annotated[
        str | None,
        Query(
            max_length=200,
            pattern=NO_NUL,
            description="Only entries about this object: an id, or the unique name or id prefix of a dataset, model or "
            "job that exists.",
        ),
    ] = None,
    created_after: Annotated[Time | None, Query(description="Created at this time or later (RFC 3339).")] = None,
    created_before: Annotated[Time | None, Query(description="Created before this time (RFC 3339).")] = None,
    limit: Limit = 20,
    after: After = None,
) -> Page[AuditEntryOut]:
    """List the changes made with the project's keys, and sign-ins to the dashboard, newest first.

    An entry is written in the transaction of its change, so neither exists without the other.
    """
    with state.database.read() as session:
        if object_id is not None and not has_id_form(object_id):
            # The log outlives its objects, so a text that matches none of them is an empty list.
            object_id = names.find_any_id(session, caller.project_id, object_id) or object_id
        page = audit.list_entries(
            session,
            caller.project_id,
            key_id=key,
            action=action,
            object_id=object_id,
            created_after=to_utc(created_after, "/created_after"),
            created_before=to_utc(created_before, "/created_before"),
            limit=limit,
            after=after,
        )
        return Page(data=[_entry(entry) for entry in page.items], has_more=page.has_more)


def _entry(entry: AuditEntry) -> AuditEntryOut:
    return AuditEntryOut.model_validate(
        {
            "id": entry.id,
            "created_at": entry.created_at,
            "key": entry.key_id,
            "subject": entry.subject,
            "action": entry.action,
            "object_id": entry.object_id,
            "outcome": entry.outcome,
            "request_id": entry.request_id,
            "client_address": entry.client_address,
        }
    )
