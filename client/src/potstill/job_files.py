"""Which files of a job are downloaded, and why there are none."""

from __future__ import annotations

from collections.abc import Sequence

from potstill.documents import Artifact, JobDocument
from potstill.errors import InvalidArgument, JobFailed


def select_artifacts(listed: Sequence[Artifact], names: Sequence[str] | None, job_id: str) -> list[Artifact]:
    """Return the artifacts with these names, or all. Raises :class:`InvalidArgument` for an unknown name."""
    by_name = {artifact.name: artifact for artifact in listed}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        raise InvalidArgument(f"job {job_id} has no {', '.join(unknown)}; it has {', '.join(by_name)}")
    return [by_name[name] for name in names or by_name]


def reason_without_files(job: JobDocument) -> str:
    """Return why a job has no files, as a sentence."""
    if job.status == "failed" and job.error is not None:
        return f"job {job.id} failed and has no files to download: {job.error.message}"
    if job.terminal:
        return f"job {job.id} is {job.status} and has no files to download"
    return f"job {job.id} is {job.status}; its files can be downloaded once it has succeeded"


def raise_for_status(job: JobDocument) -> None:
    """Raise :class:`JobFailed` if a job is terminal and has not succeeded."""
    if not job.terminal or job.status == "succeeded":
        return
    error = job.error
    reason = f": {error.message}" if error is not None else ""
    raise JobFailed(
        f"job {job.id} {'failed' if job.status == 'failed' else f'is {job.status}'}{reason}",
        status=job.status,
        code=error.code if error is not None else None,
        advice=error.advice if error is not None else None,
    )
