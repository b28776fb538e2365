"""Check all jobs of a sweep before any of them is created: parse, find inputs, resolve. Errors name job and field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread

from api.deps import AppState
from api.jobs import service as jobs
from api.references import check_name
from api.sweeps.schemas import SweepCreate
from core.errors import AmbiguousReference, FieldError, InvalidRequest, InvalidSpec, NotAvailable, PotstillError
from core.spec import JobSpec, parse_job_spec
from core.spec.sweep import SweepPoint, expand

_MAX_ERRORS = 100
_FREE_FIELDS = {"name", "metadata", "priority"}  # without influence on the result


@dataclass(frozen=True, slots=True)
class PreparedJob:
    """A job of a sweep that can be created. ``resolution`` is None where no inspector is available."""

    point: SweepPoint
    spec: JobSpec
    inputs: jobs.Inputs
    resolution: jobs.Resolution | None

    @property
    def cache_key(self) -> str | None:
        """Key of the teacher outputs that the job caches; None if it caches none."""
        return None if self.resolution is None else self.resolution["estimate"]["teacher_cache"]["cache_key"]


@dataclass(slots=True)
class _ErrorCollector:
    """Errors of the jobs' specs. Equal errors of several jobs are reported once."""

    num_points: int
    points: dict[FieldError, list[SweepPoint]] = field(default_factory=dict)
    first: PotstillError | None = None
    is_unavailable: bool = True  # every error is a field that this version does not offer

    def add(self, point: SweepPoint, error: PotstillError) -> None:
        self.first = self.first or error
        self.is_unavailable &= isinstance(error, NotAvailable)
        for each in error.errors or (FieldError("", error.detail),):
            at = FieldError(point.request_pointer(each.pointer), each.detail)
            self.points.setdefault(at, []).append(point)

    def raise_if_any(self) -> None:
        """Raise ``InvalidSpec`` or ``NotAvailable`` for all errors; ``AmbiguousReference`` with its candidates."""
        if self.first is None:
            return
        errors = [
            FieldError(each.pointer, f"{self._jobs(points)}: {each.detail}") for each, points in self.points.items()
        ]
        if isinstance(self.first, AmbiguousReference):
            raise AmbiguousReference(self.first.detail, errors=errors[:1], extra=self.first.extra)
        error_type = NotAvailable if self.is_unavailable else InvalidSpec
        raise error_type.for_fields(errors[:_MAX_ERRORS], num_errors=len(errors))

    def _jobs(self, points: Sequence[SweepPoint]) -> str:
        first = f"job {points[0].number} ({points[0].label})"
        if len(points) == 1:
            return first
        if len(points) == self.num_points:
            return "all jobs"
        return f"{first} and {len(points) - 1} more"


async def prepare_jobs(state: AppState, project_id: str, request: SweepCreate) -> list[PreparedJob]:
    """Return the jobs of a sweep, in the order of the grid. Nothing is stored.

    Raises :class:`InvalidRequest` for the grid, :class:`InvalidSpec`, :class:`NotAvailable` and
    :class:`AmbiguousReference` for the specs, with pointers into the request.
    """
    check_name(request.name, is_keyword_reserved=True)
    max_jobs = state.settings.max_sweep_jobs
    points = expand(request.spec, request.grid, request.points, max_jobs=max_jobs, name=request.name)
    found = await to_thread.run_sync(_find_inputs, state, project_id, points)
    errors = _ErrorCollector(len(points))
    prepared = []
    resolutions = await jobs.resolve_many(state.inspector, found, threads=state.settings.job_threads)
    for point, (spec, inputs), resolution in zip(points, found, resolutions, strict=True):
        if isinstance(resolution, InvalidRequest):
            errors.add(point, resolution)
        else:
            prepared.append(PreparedJob(point, spec, inputs, resolution))
    errors.raise_if_any()
    return prepared


def in_claim_order(prepared: Sequence[PreparedJob]) -> list[PreparedJob]:
    """Return the jobs so that those which share teacher outputs follow each other.

    The first one computes the outputs, and the next ones read them before the cache evicts them.
    """
    first: dict[str, int] = {}
    for job in prepared:
        if job.cache_key is not None:
            first.setdefault(job.cache_key, job.point.number)
    return sorted(prepared, key=lambda job: (first.get(job.cache_key or "", job.point.number), job.point.number))


def _find_inputs(state: AppState, project_id: str, points: Sequence[SweepPoint]) -> list[tuple[JobSpec, jobs.Inputs]]:
    errors = _ErrorCollector(len(points))
    specs = []
    for point in points:
        try:
            spec = parse_job_spec(point.document)
            check_name(spec.name, error=InvalidSpec, is_keyword_reserved=True)
            specs.append((point, spec))
        except PotstillError as error:
            errors.add(point, error)
    errors.raise_if_any()
    _require_distinct(specs)
    found = []
    for point, spec in specs:
        try:
            found.append(jobs.read_inputs(state, project_id, spec))
        except (InvalidRequest, AmbiguousReference) as error:
            errors.add(point, error)
    errors.raise_if_any()
    return found


def _require_distinct(specs: Sequence[tuple[SweepPoint, JobSpec]]) -> None:
    """Raise ``InvalidRequest`` if two jobs have the same spec, such as with the values 1 and 1.0."""
    seen: dict[str, SweepPoint] = {}
    errors = []
    for point, spec in specs:
        first = seen.setdefault(spec.model_dump_json(exclude=_FREE_FIELDS), point)
        if first is not point:
            detail = f"job {point.number} ({point.label}) has the same spec as job {first.number} ({first.label})"
            at = "/points" if point.patch is not None and point.patch != first.patch else "/grid"
            errors.append(FieldError(at, f"{detail}; give each combination once"))
    if errors:
        raise InvalidRequest.for_fields(errors[:_MAX_ERRORS], num_errors=len(errors))


def sweep_request(request: SweepCreate) -> Mapping[str, Any]:
    """Return the content of a request, which identifies it for its idempotency key."""
    return request.model_dump(mode="json")
