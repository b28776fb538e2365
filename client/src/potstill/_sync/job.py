# Generated from `potstill._async` by `make docs`; do not edit.
"""A job with its actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from potstill.documents import Artifact, Checkpoint, Event, JobDocument, JobLog, Prediction
from potstill.job_files import raise_for_status
from potstill.loading import Format
from potstill.metrics import Metrics
from potstill.transfers import ProgressOption

if TYPE_CHECKING:
    from potstill._sync.jobs import Jobs


class Job(JobDocument):
    """A job as the service last described it. Actions return the new state; the object itself does not change."""

    _jobs: Jobs = PrivateAttr()

    def refresh(self) -> Job:
        """Get the job's current state."""
        return self._jobs.get(self.id)

    def wait(self, *, timeout_seconds: float | None = None, progress: bool = False, check: bool = False) -> Job:
        """Wait until the job is terminal; see :meth:`Jobs.wait`."""
        return self._jobs.wait(self.id, timeout_seconds=timeout_seconds, progress=progress, check=check)

    def cancel(self) -> Job:
        """Cancel the job."""
        return self._jobs.cancel(self.id)

    def pause(self) -> Job:
        """Pause the job."""
        return self._jobs.pause(self.id)

    def resume(self) -> Job:
        """Resume the job."""
        return self._jobs.resume(self.id)

    def stop(self) -> Job:
        """Stop training early; the student is still evaluated and exported."""
        return self._jobs.stop(self.id)

    def retry(self, *, apply_fix: bool = False, changes: Mapping[str, Any] | None = None) -> Job:
        """Retry the job; see :meth:`Jobs.retry`."""
        return self._jobs.retry(self.id, apply_fix=apply_fix, changes=changes)

    def delete(self) -> None:
        """Delete the finished job and its files."""
        self._jobs.delete(self.id)

    def events(self, *, after_seq: int = 0) -> Iterator[Event]:
        """Stream the job's events until its end, without gaps."""
        return self._jobs.events(self.id, after_seq=after_seq)

    def metrics(self, *, name: str | None = None, max_points: int | None = None) -> Metrics:
        """Get the metric series."""
        return self._jobs.metrics(self.id, name=name, max_points=max_points)

    def logs(self) -> JobLog:
        """Get the last log lines of the process; of a running job those of a few seconds ago."""
        return self._jobs.logs(self.id)

    def artifacts(self) -> Sequence[Artifact]:
        """List the output files."""
        return self._jobs.artifacts(self.id)

    def checkpoints(self) -> Iterator[Checkpoint]:
        """Iterate over the stored checkpoints, newest first."""
        return self._jobs.checkpoints(self.id)

    def download(
        self, folder: Path | str, *, names: Sequence[str] | None = None, progress: ProgressOption = False
    ) -> Sequence[Path]:
        """Download the artifacts and verify them; see :meth:`Jobs.download`."""
        return self._jobs.download(self.id, folder, names=names, progress=progress)

    def predict(self, image: Path | str) -> Prediction:
        """Classify an image file with the student; see :meth:`Jobs.predict`."""
        return self._jobs.predict(self.id, image)

    def load(
        self,
        *,
        format: Format = "timm",  # noqa: A002 - as in other libraries
        name: str | None = None,
        folder: Path | str | None = None,
        progress: ProgressOption = False,
    ) -> Any:
        """Download the student and return it; see :meth:`Jobs.load`."""
        return self._jobs.load(self.id, format=format, name=name, folder=folder, progress=progress)

    def raise_for_status(self) -> None:
        """Raise :class:`JobFailed` if the job is terminal and has not succeeded."""
        raise_for_status(self)
