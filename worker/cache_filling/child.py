"""The forked process that computes teacher outputs for a job that another worker runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from core.cache_filling import fill_views
from core.reporting import Control, Interrupted, NullReporter
from core.spec import parse_job_spec
from core.store import teachers, view_offers
from core.store.view_offers import ClaimedOffer
from worker.context import Context
from worker.jobs.inputs import Inputs
from worker.process.monitor import EXIT_DONE

log = structlog.get_logger(__name__)


class FillingReporter(NullReporter):
    """Reporter that finds the job's teachers and returns control requests; everything else belongs to the job."""

    def __init__(self, context: Context, claimed: ClaimedOffer, scratch: Path, control: Callable[[], Control]) -> None:
        self._context = context
        self._project_id = claimed.job.project_id
        self._scratch = scratch
        self._control = control

    def control(self) -> Control:
        """Return the requested control."""
        return self._control()

    def poll(self) -> None:
        """Raise ``Interrupted`` on any request."""
        if (control := self.control()) is not Control.GO:
            raise Interrupted(control)

    def find_teacher(self, fingerprint: str) -> Path | None:
        """Fetch a teacher that a job of the project trained; None if there is none."""
        with self._context.database.write() as session:
            files = teachers.find_files(session, self._project_id, fingerprint)
        if not files:
            return None
        return self._context.input_cache.fetch(files, self._scratch / "teachers" / fingerprint, self.poll)


def fill(context: Context, claimed: ClaimedOffer, control: Callable[[], Control]) -> int:
    """Compute missing shards until none is left or an end is requested; return the exit status."""
    scratch = context.scratch_dir(claimed.id, claimed.attempt)
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    reporter = FillingReporter(context, claimed, scratch, control)
    spec = parse_job_spec(claimed.job.spec)
    try:
        with context.input_cache:
            inputs = Inputs.fetch(context, claimed.job, spec, scratch, reporter.poll)
            workspace = inputs.workspace(context, scratch)
            num_shards = fill_views(spec, workspace, reporter, views_key=claimed.views_key, next_view=claimed.next_view)
    except Interrupted as interrupted:
        log.info("cache_filling.interrupted", control=interrupted.control)
        return EXIT_DONE
    with context.database.write() as session:
        view_offers.close(session, claimed)
    log.info("cache_filling.done", shards=num_shards)
    return EXIT_DONE
