"""Query parameters of the list of jobs: filters, order and page, for ``GET /v1/jobs`` and for the dashboard."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.deps import MAX_LIMIT
from api.jobs.schemas import JobStatus
from api.problems import invalid_field
from api.time_params import Time, to_utc
from core.errors import AmbiguousReference, NotFound
from core.spec import METHODS
from core.spec.parse import did_you_mean
from core.spec.patterns import NO_NUL
from core.store import names
from core.store.db import Session
from core.store.jobs import JobFilter, JobOrder, SortKey

_Name = Annotated[str, Field(max_length=200, pattern=NO_NUL)]
_MAX_VALUES = 16  # of a filter that may be repeated


class JobListQuery(BaseModel):
    """Filters, order and page of a list of jobs. All filters apply; of repeated ones, one value must match."""

    model_config = ConfigDict(frozen=True)

    status: list[JobStatus] = Field(default=[], max_length=_MAX_VALUES, description="Status; repeatable.")
    method: list[_Name] = Field(default=[], max_length=_MAX_VALUES, description="Name of the method; repeatable.")
    dataset: _Name | None = Field(default=None, description="Id, unique name or unique id prefix of the dataset.")
    student: _Name | None = Field(
        default=None, description="Architecture of the student; without a pretrained tag it matches every tag."
    )
    teacher: _Name | None = Field(default=None, description="Architecture of one of the teachers, as `student`.")
    metadata: list[Annotated[str, Field(max_length=600, pattern=NO_NUL)]] = Field(
        default=[], max_length=_MAX_VALUES, description="Entry `key:value` of the metadata; repeatable, all must match."
    )
    sweep: str | None = Field(default=None, max_length=64, pattern=NO_NUL, description="Id of the job's sweep.")
    created_after: Time | None = Field(default=None, description="Created at this time or later (RFC 3339).")
    created_before: Time | None = Field(default=None, description="Created before this time (RFC 3339).")
    search: Annotated[str, Field(max_length=200, pattern=NO_NUL)] = Field(
        default="",
        description="Words, each of which the name, id, method, student or a teacher contains, in any case.",
    )
    sort: SortKey = Field(
        default="created_at",
        description="Value to sort by. `seconds` is the time from the first start to the end; the others are those of "
        "the student. Jobs without the value come last.",
    )
    order: Literal["desc", "asc"] = Field(default="desc", description="Direction.")
    limit: int = Field(default=20, ge=1, le=MAX_LIMIT, description="Maximum number of objects.")
    after: str | None = Field(
        default=None, max_length=64, description="Id of the last object of the previous page.", examples=[None]
    )

    def job_order(self) -> JobOrder:
        """Return the order of the list."""
        return JobOrder(self.sort, descending=self.order == "desc")

    def job_filter(self, session: Session, project_id: str) -> JobFilter:
        """Return the filters, with the dataset's id.

        Raises ``InvalidRequest`` for an unknown method or dataset, an ambiguous dataset, or malformed metadata.
        """
        return JobFilter(
            statuses=self.status,
            methods=[_known_method(name, f"/method/{index}") for index, name in enumerate(self.method)],
            dataset_id=None if self.dataset is None else _dataset_id(session, project_id, self.dataset),
            student=self.student,
            teacher=self.teacher,
            metadata=dict(_entry(text, f"/metadata/{index}") for index, text in enumerate(self.metadata)),
            sweep_id=self.sweep,
            created_after=to_utc(self.created_after, "/created_after"),
            created_before=to_utc(self.created_before, "/created_before"),
            search=self.search,
        )


def _known_method(name: str, at: str) -> str:
    if name not in METHODS:
        raise invalid_field(at, f"there is no method {name[:80]!r}.{did_you_mean(name, METHODS)}")
    return name


def _dataset_id(session: Session, project_id: str, text: str) -> str:
    try:
        return names.find_id(session, project_id, "dataset", text)
    except (NotFound, AmbiguousReference) as error:
        raise invalid_field("/dataset", error.detail) from None


def _entry(text: str, at: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon or not key:
        raise invalid_field(at, "an entry of the metadata is `key:value`, e.g. `team:search`")
    return key, value
