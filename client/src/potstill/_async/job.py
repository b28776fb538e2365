"""A job with its actions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from potstill.documents import Artifact, Checkpoint, Event, JobDocument, JobLog, Prediction
from potstill.job_files import raise_for_status
from potstill.loading import Format
from potstill.metrics import Metrics
from potstill.transfers import ProgressOption

if TYPE_CHECKING:
    from potstill._async.jobs import AsyncJobs


class AsyncJob(JobDocument):
    """A job as the service last described it. Actions return the new state; the object itself does not change."""

    _jobs: AsyncJobs = PrivateAttr()

    async def refresh(self) -> AsyncJob:
        """Get the job's current state."""
        return await self._jobs.get(self.id)

    async def wait(
        self, *, timeout_seconds: float | None = None, progress: bool = False, check: bool = False
    ) -> AsyncJob:
        """Wait until the job is terminal; see :meth:`AsyncJobs.wait`."""
        return await self._jobs.wait(self.id, timeout_seconds=timeout_seconds, progress=progress, check=check)

    async def cancel(self) -> AsyncJob:
        """Cancel the job."""
        return await self._jobs.cancel(self.id)

    async def pause(self) -> AsyncJob:
        """Pause the job."""
        return await self._jobs.pause(self.id)

    async def resume(self) -> AsyncJob:
        """Resume the job."""
        return await self._jobs.resume(self.id)

    async def stop(self) -> AsyncJob:
        """Stop training early; the student is still evaluated and exported."""
        return await self._jobs.stop(self.id)

    async def retry(self, *, apply_fix: bool = False, changes: Mapping[str, Any] | None = None) -> AsyncJob:
        """Retry the job; see :meth:`AsyncJobs.retry`."""
        return await self._jobs.retry(self.id, apply_fix=apply_fix, changes=changes)

    async def delete(self) -> None:
        """Delete the finished job and its files."""
        await self._jobs.delete(self.id)

    def events(self, *, after_seq: int = 0) -> AsyncIterator[Event]:
        """Stream the job's events until its end, without gaps."""
        return self._jobs.events(self.id, after_seq=after_seq)

    async def metrics(self, *, name: str | None = None, max_points: int | None = None) -> Metrics:
        """Get the metric series."""
        return await self._jobs.metrics(self.id, name=name, max_points=max_points)

    async def logs(self) -> JobLog:
        """Get the last log lines of the process; of a running job those of a few seconds ago."""
        return await self._jobs.logs(self.id)

    async def artifacts(self) -> Sequence[Artifact]:
        """List the output files."""
        return await self._jobs.artifacts(self.id)

    def checkpoints(self) -> AsyncIterator[Checkpoint]:
        """Iterate over the stored checkpoints, newest first."""
        return self._jobs.checkpoints(self.id)

    async def download(
        self, folder: Path | str, *, names: Sequence[str] | None = None, progress: ProgressOption = False
    ) -> Sequence[Path]:
        """Download the artifacts and verify them; see :meth:`AsyncJobs.download`."""
        return await self._jobs.download(self.id, folder, names=names, progress=progress)

    async def predict(self, image: Path | str) -> Prediction:
        """Classify an image file with the student; see :meth:`AsyncJobs.predict`."""
        return await self._jobs.predict(self.id, image)

    async def load(
        self,
        *,
        format: Format = "timm",  # noqa: A002 - as in other libraries
        name: str | None = None,
        folder: Path | str | None = None,
        progress: ProgressOption = False,
    ) -> Any:
        """Download the student and return it; see :meth:`AsyncJobs.load`."""
        return await self._jobs.load(self.id, format=format, name=name, folder=folder, progress=progress)

    def raise_for_status(self) -> None:
        """Raise :class:`JobFailed` if the job is terminal and has not succeeded."""
        raise_for_status(self)
