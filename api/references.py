"""Path parameters that name a dataset, a model or a job: an id, a unique name or a unique id prefix.

Endpoints receive the full id. A text with the form of an id needs no query.
"""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import Depends, Path, Request

from api.deps import AppState, Caller
from api.encoded_slashes import restore_slashes
from core.errors import AmbiguousReference, InvalidRequest, NotFound
from core.ids import has_id_form
from core.spec.job import WEIGHT_KEYWORDS
from core.store import names
from core.store.names import Kind

_DESCRIPTION = "Id, unique name (URL-encoded) or unique id prefix of the {kind}."

PathText = Annotated[str, Path(description=_DESCRIPTION.format(kind="job"))]


async def get_dataset_id(
    dataset_id: Annotated[str, Path(description=_DESCRIPTION.format(kind="dataset"))], request: Request
) -> str:
    """Return the full id. Raises :class:`NotFound`, :class:`AmbiguousReference`."""
    return await find_path_id(request, request.state.caller, "dataset", dataset_id)


async def get_model_id(
    model_id: Annotated[str, Path(description=_DESCRIPTION.format(kind="model"))], request: Request
) -> str:
    """Return the full id. Raises :class:`NotFound`, :class:`AmbiguousReference`."""
    return await find_path_id(request, request.state.caller, "model", model_id)


async def get_job_id(job_id: PathText, request: Request) -> str:
    """Return the full id. Raises :class:`NotFound`, :class:`AmbiguousReference`."""
    return await find_path_id(request, request.state.caller, "job", job_id)


# They need the caller, so the parameter with the caller comes before (`api.route_checks`).
DatasetId = Annotated[str, Depends(get_dataset_id)]
ModelId = Annotated[str, Depends(get_model_id)]
JobId = Annotated[str, Depends(get_job_id)]

REFERENCE_ERRORS = (NotFound, AmbiguousReference)
REFERENCE_DEPENDENCIES = frozenset({get_dataset_id, get_model_id, get_job_id})


async def find_path_id(request: Request, caller: Caller, kind: Kind, text: str) -> str:
    """Return the full id of a path parameter. Raises :class:`NotFound`, :class:`AmbiguousReference`."""
    text = restore_slashes(text)
    if names.is_full_id(kind, text):
        return text
    state: AppState = request.app.state.app_state

    def find() -> str:
        with state.database.read() as session:
            return names.find_id(session, caller.project_id, kind, text)

    return await to_thread.run_sync(find)


def check_name(name: str | None, *, error: type[InvalidRequest] = InvalidRequest, is_keyword_reserved: bool) -> None:
    """Refuse a name that cannot be used as a reference. Raises ``error`` for the field ``/name``.

    ``is_keyword_reserved``: the object can be the source of ``weights``, where a keyword wins over a name.
    """
    if name is None:
        return
    detail = None
    if has_id_form(name):
        detail = f"{name!r} has the form of an id; choose another name"
    elif is_keyword_reserved and name in WEIGHT_KEYWORDS:
        detail = f"{name!r} is a keyword of weights ({', '.join(WEIGHT_KEYWORDS)}); choose another name"
    if detail is not None:
        raise error.for_field("/name", detail)
