"""Jobs: every state change is one function, one guarded UPDATE and one event in the same transaction.

``records``: creating and finding. ``moves``: what a caller may ask. ``queue``: claiming and taking back.
``attempts``: what the worker that holds a job may do. ``revisions``: a retry with another spec. ``clock``: how long
it has run.
"""

from core.store.jobs.attempts import (
    NewArtifact,
    beat,
    cancelled,
    current,
    fail,
    finish_stage,
    flags,
    hand_back,
    paused,
    record_progress,
    set_spec,
    start_stage,
    succeed,
)
from core.store.jobs.clock import running_seconds
from core.store.jobs.moves import cancel, next_actions, pause, require_retry, resume, retry, stop
from core.store.jobs.queue import WORKER_LOST, claim, claimable, expire_leases, lose, waiting
from core.store.jobs.records import create, delete, get, get_artifact, get_for, list_artifacts, list_jobs
from core.store.jobs.revisions import Revision, retry_revised
from core.store.leases import Attempt, Flags, LeaseLost

__all__ = [
    "WORKER_LOST",
    "Attempt",
    "Flags",
    "LeaseLost",
    "NewArtifact",
    "Revision",
    "beat",
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
    "hand_back",
    "list_artifacts",
    "list_jobs",
    "lose",
    "next_actions",
    "pause",
    "paused",
    "record_progress",
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
