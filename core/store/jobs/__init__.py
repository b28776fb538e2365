"""Jobs: every state change is one function, one guarded UPDATE and one event in the same transaction.

``records``: creating and finding. ``moves``: what a caller may ask. ``queue``: claiming and taking back.
``attempts``: what the worker that holds a job may do. ``revisions``: a retry with another spec. ``clock``: how long
it has run.
"""

from core.store.job_leases import Flags, LeaseLost, LeaseToken
from core.store.jobs.actions import cancel, next_actions, pause, require_retry, resume, retry, stop
from core.store.jobs.attempts import (
    NewArtifact,
    cancelled,
    current,
    fail,
    finish_stage,
    flags,
    paused,
    record_progress,
    release,
    renew_lease,
    set_spec,
    start_stage,
    succeed,
)
from core.store.jobs.claims import WORKER_LOST, claim, claimable, expire_leases, record_loss, waiting
from core.store.jobs.records import (
    create,
    delete,
    get,
    get_artifact,
    get_for,
    list_artifacts,
    list_jobs,
    running_seconds,
)
from core.store.jobs.revisions import Revision, retry_revised

__all__ = [
    "WORKER_LOST",
    "Flags",
    "LeaseLost",
    "LeaseToken",
    "NewArtifact",
    "Revision",
    "cancel",
    "cancelled",
    "claim",
    "claimable",
    "create",
    "current",
    "delete",
    "expire_leases",
    "fail",
    "finish_stage",
    "flags",
    "get",
    "get_artifact",
    "get_for",
    "list_artifacts",
    "list_jobs",
    "next_actions",
    "pause",
    "paused",
    "record_loss",
    "record_progress",
    "release",
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
    "waiting",
]
