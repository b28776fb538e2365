"""Jobs: every state change is one function, one guarded UPDATE and one event in the same transaction.

``records``: create, find and delete jobs. ``listing``: filters and orders of lists. ``actions``: cancel, pause, resume,
stop, retry. ``claims``: claim jobs and requeue those of lost workers. ``attempts``: writes of the worker that holds the
lease. ``revisions``: retry with a changed spec. This package is the facade; other code imports from here.
"""

from core.store.job_leases import Flags, LeaseLost, LeaseToken
from core.store.jobs.actions import cancel, next_actions, pause, require_retry, resume, retry, stop
from core.store.jobs.attempts import (
    NewArtifact,
    add_warnings,
    fail,
    finish_stage,
    get_leased,
    read_flags,
    record_progress,
    release,
    release_cancelled,
    release_paused,
    renew_lease,
    set_spec,
    start_stage,
    succeed,
)
from core.store.jobs.claims import (
    WORKER_LOST,
    claim,
    count_queued,
    count_unfinished,
    expire_leases,
    queue_ages,
    queued_accelerators,
    record_loss,
)
from core.store.jobs.listing import ALL_JOBS, NEWEST_FIRST, SORT_KEYS, JobFilter, JobOrder, SortKey, list_jobs
from core.store.jobs.records import (
    create,
    delete,
    get,
    get_artifact,
    get_as_caller,
    list_artifacts,
    running_seconds,
)
from core.store.jobs.revisions import Revision, retry_revised

__all__ = [
    "ALL_JOBS",
    "NEWEST_FIRST",
    "SORT_KEYS",
    "WORKER_LOST",
    "Flags",
    "JobFilter",
    "JobOrder",
    "LeaseLost",
    "LeaseToken",
    "NewArtifact",
    "Revision",
    "SortKey",
    "add_warnings",
    "cancel",
    "claim",
    "count_queued",
    "count_unfinished",
    "create",
    "delete",
    "expire_leases",
    "fail",
    "finish_stage",
    "get",
    "get_artifact",
    "get_as_caller",
    "get_leased",
    "list_artifacts",
    "list_jobs",
    "next_actions",
    "pause",
    "queue_ages",
    "queued_accelerators",
    "read_flags",
    "record_loss",
    "record_progress",
    "release",
    "release_cancelled",
    "release_paused",
    "renew_lease",
    "require_retry",
    "resume",
    "retry",
    "retry_revised",
    "running_seconds",
    "set_spec",
    "start_stage",
    "stop",
    "succeed",
]
