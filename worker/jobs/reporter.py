"""What the engine tells, written down under the attempt that runs; what was asked of the job, told to the engine.

Small things (metrics, progress) are gathered and written together about once a second, beside the training, which
does not wait for the database. Checkpoints are listed after what was gathered before: at once, or, while the database
is away, when it is back. Events and stages are written at once. A write after the lease is lost raises ``LeaseLost``,
which ends the process.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import structlog

from core.errors import StorageFailed, StoredFileDamaged
from core.ids import new_id
from core.reporting import Control, Interrupted, Progress, SavedCheckpoint, Stage
from core.store import checkpoints, events, jobs, metrics, teachers
from core.store.artifact_store import StoredFile
from core.store.db import DatabaseUnavailable, Session
from core.store.job_leases import LeaseToken
from core.store.retry_commit import IdempotentTransaction
from core.store.tables import Checkpoint, Job
from core.system.fault_injection import fault_point
from worker.background import BackgroundTask
from worker.context import Context
from worker.stored_files import fetch_folder, publish_folder, stored_files

FLUSH_SECONDS = 1.0
FLUSH_ROWS = 2_000
MOST_ROWS = 100_000  # gathered while the database is away; then the training waits for it
MOST_UNLISTED = 8  # checkpoints that are published meanwhile; then the training waits
_PAUSE_SECONDS = 0.25

Value = TypeVar("Value")

log = structlog.get_logger(__name__)


class JobReporter:
    """The worker's side of a run (see :class:`core.reporting.Reporter`)."""

    def __init__(self, context: Context, job: Job, scratch: Path, control: Callable[[], Control]) -> None:
        self._context = context
        self._attempt = LeaseToken.of(job)
        self._project_id = job.project_id
        self._scratch = scratch
        self._control = control
        self._metrics: list[tuple[str, int, float]] = []
        self._progress: Progress | None = None
        self._flushed_at = time.monotonic()
        self._outbox: deque[Callable[[], None]] = deque()  # is written beside the training, in this order
        self._beside = BackgroundTask()
        self._away = False  # the database, when it was last asked
        self._training = False

    # --- cheap: gathered --------------------------------------------------------------------------

    def progress(self, progress: Progress) -> None:
        """Keep the newest; it is written with the next flush."""
        self._progress = progress
        self._flush_if_due()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the values; they are written with the next flush. The student's first step is told at once."""
        self._metrics.extend((name, step, value) for name, value in values.items())
        if not self._training and any(name.startswith("train/") for name in values):
            self._training = True
            self.event("training.started", f"The student's training is at step {step}.", data={"step": step})
        self._flush_if_due()

    def control(self) -> Control:
        """What to do next: a byte in shared memory that the guardian writes."""
        return self._control()

    def poll(self) -> None:
        """Raise ``Interrupted`` where the job is to leave its worker now."""
        if (control := self.control()) in {Control.CANCEL, Control.PAUSE, Control.DRAIN}:
            raise Interrupted(control)

    # --- at once ----------------------------------------------------------------------------------

    def stage_started(self, stage: Stage) -> None:
        """A stage begins; not for a job that is to leave its worker now. Raises ``Interrupted``."""
        self.flush()
        log.info("stage.started", stage=stage.value)
        self.write(lambda session: jobs.start_stage(session, self._attempt, stage.value))
        fault_point("stage.started")
        self.poll()

    def stage_finished(self, stage: Stage) -> None:
        """A stage is done."""
        self.flush()
        self.write(lambda session: jobs.finish_stage(session, self._attempt, stage.value))
        fault_point("stage.finished")

    def event(
        self,
        type: str,  # noqa: A002 - the wire's word
        message: str,
        *,
        level: Literal["info", "warning", "error"] = "info",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Add to the job's log."""
        log.info(type, message=message)
        self.write(lambda session: events.append(session, self._attempt, type, message, level=level, data=data))

    def save_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Publish the files, then list them. A checkpoint that is listed is whole."""
        checkpoint_id = new_id("ckpt")
        files = publish_folder(
            self._context.store,
            checkpoint.folder,
            f"jobs/{self._attempt.job_id}/a{self._attempt.attempt}/checkpoints/{checkpoint_id}",
        )
        fault_point("checkpoint.published")
        log.info("checkpoint.saved", track=checkpoint.track, step=checkpoint.step)
        self._put_gathered()
        self._outbox.append(lambda: self._list(checkpoint, checkpoint_id, files))
        self._send()
        while self._unwritten and not (self._away and len(self._outbox) < MOST_UNLISTED):
            self._beside.wait(_PAUSE_SECONDS)
            self._send()
        if not self._unwritten:
            self._beside.wait()  # raises what was found while writing, a lost lease say

    def newest_checkpoint(self, track: str) -> Path | None:
        """Bring the newest whole checkpoint of a track here; what was measured after it comes again."""
        if self._attempt.attempt == 1:
            return None  # nothing came before
        self.flush()
        listed = self.write(lambda session: checkpoints.newest(session, self._attempt))
        for checkpoint in (one for one in listed if one.track == track):
            folder = self._bring(checkpoint)
            if folder is not None:
                self._forget_metrics(track, after=checkpoint.step)
                return folder
        self._forget_metrics(track, after=-1)
        return None

    def find_teacher(self, recipe: str) -> Path | None:
        """Bring a teacher that some job of this project trained by the same recipe."""

        def find(session: Session) -> list[StoredFile]:
            found = teachers.find(session, self._project_id, recipe)
            return [] if found is None else stored_files(found.files)

        files = self.write(find)
        if not files:
            return None
        try:
            return self._context.inputs.fetch(files, self._scratch / "teachers" / recipe, self.poll)
        except StoredFileDamaged as error:
            log.warning("teacher.damaged", recipe=recipe, error=error.detail)  # trained once more, it replaces this
            return None

    def keep_teacher(self, recipe: str, folder: Path) -> None:
        """Publish a trained teacher for every later job with the same recipe."""
        prefix = f"teachers/{self._project_id}/{recipe}/{self._attempt.job_id}-a{self._attempt.attempt}"
        files = publish_folder(self._context.store, folder, prefix)
        fault_point("teacher.published")
        self.write(lambda session: teachers.keep(session, self._attempt, recipe, files))
        fault_point("teacher.saved")

    # --- what the runner needs too ------------------------------------------------------------------

    def flush(self) -> None:
        """Have all that was gathered written. Raises as :meth:`write` does."""
        self._put_gathered()
        self._empty_outbox()

    def write(self, work: Callable[[Session], Value]) -> Value:
        """Do ``work`` once, in one transaction, whenever the database is there; then tell who follows.

        Raises ``LeaseLost``; ``DatabaseUnavailable`` where it is away for longer than ``OUTAGE_SECONDS``.
        """
        self._empty_outbox()
        return self._written(work)

    # --- inside -----------------------------------------------------------------------------------

    def _written(self, work: Callable[[Session], Value]) -> Value:
        ends = time.monotonic() + self._context.settings.outage_seconds
        once = IdempotentTransaction(self._context.database, work)
        while True:
            try:
                value = once.attempt()
                break
            except DatabaseUnavailable:
                self._away = True
                if time.monotonic() > ends:
                    raise
                time.sleep(_PAUSE_SECONDS)
        self._away = False
        self._context.hints.publish_job_change(self._attempt.job_id)
        return value

    def _flush_if_due(self) -> None:
        due = len(self._metrics) >= FLUSH_ROWS or time.monotonic() - self._flushed_at >= FLUSH_SECONDS
        if len(self._metrics) >= MOST_ROWS:
            self.flush()
        elif due and not self._beside.busy:
            self._put_gathered()
            self._send()

    def _put_gathered(self) -> None:
        """Let what was gathered be the next thing to be written."""
        rows, progress = self._metrics, self._progress
        self._metrics, self._progress = [], None
        self._flushed_at = time.monotonic()
        if rows or progress is not None:
            self._outbox.append(lambda: self._written(lambda session: self._store(session, rows, progress)))

    def _send(self) -> None:
        """Have the outbox written beside the training, unless that is under way. Raises what that raised before."""
        if self._outbox and not self._beside.busy:
            self._beside.start(self._write_outbox)

    @property
    def _unwritten(self) -> bool:
        return bool(self._outbox) or self._beside.busy

    def _write_outbox(self) -> None:
        while self._outbox:
            self._outbox.popleft()()

    def _empty_outbox(self) -> None:
        """Wait until all of the outbox is written. Raises as :meth:`write` does."""
        self._beside.wait()
        while self._outbox:
            self._send()
            self._beside.wait()

    def _list(self, checkpoint: SavedCheckpoint, checkpoint_id: str, files: Sequence[StoredFile]) -> None:
        """Name a published checkpoint, and delete the files of those that it outdates."""

        def save(session: Session) -> checkpoints.Saved:
            saved = checkpoints.save(
                session,
                self._attempt,
                track=checkpoint.track,
                step=checkpoint.step,
                epoch=checkpoint.epoch,
                files=files,
                metrics=checkpoint.metrics,
                keep=checkpoint.keep,
                checkpoint_id=checkpoint_id,
            )
            session.flush()
            fault_point("checkpoint.uncommitted")
            return saved

        saved = self._written(save)
        fault_point("checkpoint.named")
        self._delete(saved.garbage)
        fault_point("checkpoint.superseded")

    def _store(self, session: Session, rows: list[tuple[str, int, float]], progress: Progress | None) -> None:
        if rows:
            metrics.insert(session, self._attempt, rows)
        if progress is not None:
            jobs.record_progress(session, self._attempt, progress)

    def _bring(self, checkpoint: Checkpoint) -> Path | None:
        """The checkpoint's folder, or None for a damaged one, which is then taken off the list."""
        folder = self._scratch / "checkpoints" / checkpoint.id
        try:
            return fetch_folder(self._context.store, stored_files(checkpoint.files), folder)
        except StoredFileDamaged as error:
            log.warning("checkpoint.damaged", checkpoint=checkpoint.id, error=error.detail)
            self._delete(self.write(lambda session: checkpoints.discard(session, self._attempt, checkpoint.id)))
            return None

    def _forget_metrics(self, track: str, *, after: int) -> None:
        self.write(lambda session: metrics.drop_after(session, self._attempt, after, track=track))

    def _delete(self, keys: Iterable[str]) -> None:
        """Delete files that nothing names any more; what cannot be deleted now is left to the collector."""
        for key in keys:
            try:
                self._context.store.delete(key)
            except StorageFailed as error:
                log.warning("garbage.left", key=key, error=error.detail)
