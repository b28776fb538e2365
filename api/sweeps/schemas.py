"""Schemas of sweeps: the request, a sweep with its jobs, its Pareto fronts, and its estimate."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from api.jobs.schemas import EXAMPLE_SPEC, JobStatus, Measured
from api.schemas import Failure, Out, Timestamp
from core.job_warnings import JobWarning
from core.spec.document import StrictModel
from core.spec.job import Name

MAX_GRID_FIELDS = 20

SweepStatus = Literal["queued", "running", "paused", "finished"]
CostName = Literal["size_bytes", "parameters", "flops", "latency_ms"]

EXAMPLE: dict[str, Any] = {
    "name": "tune deit",
    "spec": {name: value for name, value in EXAMPLE_SPEC.items() if name != "name"},
    "grid": {"training.epochs": [20, 40], "method.distillation_type": ["hard", "soft"]},
}


class SweepCreate(StrictModel):
    """Jobs to create: a job spec, and the fields of it that vary."""

    name: Name | None = Field(default=None, description="Start of the names of the jobs. Null: the name in `spec`.")
    spec: dict[str, JsonValue] = Field(
        description="The job spec that the jobs share. It may leave out the fields that `grid` or `points` give."
    )
    grid: Annotated[dict[str, list[JsonValue]], Field(max_length=MAX_GRID_FIELDS)] = Field(
        default_factory=dict,
        description="Values of fields of the spec, by field: names and list indexes joined by dots, such as "
        "`training.epochs` or `teachers.0.weights`. There is a job for each combination. A value replaces the field: "
        'an object such as `{"name": "kd", "temperature": 4}` for `method` as a whole.',
    )
    points: list[dict[str, JsonValue]] = Field(
        default_factory=list,
        description="Merge patches (RFC 7396) of the spec, for fields that vary together. With a grid there is a job "
        "for each point and each combination.",
    )


class CountsOut(Out):
    """Number of jobs by status."""

    queued: int
    running: int
    paused: int
    succeeded: int
    failed: int
    cancelled: int


class SweepProgressOut(Out):
    """Progress of all jobs together."""

    fraction: float = Field(ge=0, le=1)


class SweepSummaryOut(Out):
    """A sweep without its jobs."""

    id: str
    object: Literal["sweep"] = "sweep"
    name: str | None
    status: SweepStatus = Field(
        description="`queued`: no job has started. `running`: some jobs have not ended. `paused`: those that have not "
        "ended are paused. `finished`: all jobs have ended, see `counts`."
    )
    terminal: bool = Field(description="All jobs have ended; only a retry of one changes that.")
    counts: CountsOut
    progress: SweepProgressOut
    num_jobs: int = Field(description="Number of jobs that were created; some may be deleted since.")
    fields: list[str] = Field(description="The fields that vary, in the order of the grid.")
    created_at: Timestamp
    finished_at: Timestamp | None


class SweepCompressedOut(Measured):
    """A compressed file of a job."""

    artifact: str


class SweepJobOut(Out):
    """A job of a sweep, with the values that it varies and its figures. `GET /v1/jobs/{id}` has the rest."""

    id: str
    name: str | None
    number: int = Field(description="Position in the sweep, from 1.")
    values: dict[str, Any] = Field(description="Its values of the sweep's `fields`.")
    status: JobStatus
    stage: str | None
    progress: SweepProgressOut
    dataset: str
    error: Failure | None
    student: Measured | None = Field(description="Figures of the exported student; null before the job has succeeded.")
    gain: float | None = Field(description="Top-1 of the student minus that of its baseline; null without one.")
    compressed: list[SweepCompressedOut] = Field(description="Figures of the compressed files.")
    started_at: Timestamp | None
    finished_at: Timestamp | None


class FrontPointOut(Measured):
    """A student or compressed file that no other one of the sweep beats in both accuracy and cost."""

    job: str
    number: int = Field(description="Position of the job in the sweep.")
    artifact: str | None = Field(description="The compressed file; null: the student itself.")


class FrontsOut(Out):
    """Pareto fronts of top-1 against a cost, the cheapest first. Files of different datasets are not compared."""

    size_bytes: list[FrontPointOut]
    parameters: list[FrontPointOut]
    flops: list[FrontPointOut]
    latency_ms: list[FrontPointOut]


class SweepOut(SweepSummaryOut):
    """A sweep with its jobs and their Pareto fronts."""

    spec: dict[str, Any] = Field(description="The base spec, as it was sent.")
    grid: dict[str, list[Any]]
    points: list[dict[str, Any]]
    jobs: list[SweepJobOut]
    fronts: FrontsOut


class SweepJobEstimateOut(Out):
    """Estimate of one job of a sweep."""

    number: int
    name: str | None
    values: dict[str, Any]
    seconds: float = Field(description="Duration of the job, without what earlier jobs of the sweep leave for it.")
    memory_bytes: int | None
    total_steps: int
    student: dict[str, Any] = Field(description="`parameters`, `flops`, `size_bytes`.")


class SweepEstimateOut(Out):
    """Estimated cost of a sweep. Nothing is created."""

    object: Literal["sweep_estimate"] = "sweep_estimate"
    num_jobs: int
    fields: list[str]
    seconds: float = Field(
        description="Duration of all jobs on one worker, one after another. Outputs and trainings of a teacher that "
        "several jobs share count once."
    )
    shared_seconds: float = Field(description="What is saved because jobs share them.")
    memory_bytes: int | None = Field(description="Of the job that needs the most.")
    jobs: list[SweepJobEstimateOut]
    warnings: list[JobWarning] = Field(description="Those of all jobs, each once.")
