"""The context of a worker's processes: settings, identity, and connections that each process opens for itself."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Literal

from core.broker import JOB_QUEUES, Broker
from core.ids import new_id
from core.settings import Settings
from core.store.artifact_store import ArtifactStore
from core.store.db import Database, open_database
from core.store.storage_url import open_store
from core.system.disk_cache import cache_id
from worker.input_cache import InputCache


class Context:
    """Settings, identity and connections of one process. Connections open on first use and never cross a fork."""

    def __init__(self, settings: Settings, queue: str, worker_id: str) -> None:
        self.settings = settings
        self.queue = queue
        self.worker_id = worker_id
        self.pid = os.getpid()

    @property
    def accelerator(self) -> Literal["cpu", "cuda"]:
        """The accelerator that this worker claims jobs for."""
        return "cuda" if self.queue == JOB_QUEUES["cuda"] else "cpu"

    def scratch_dir(self, object_id: str, attempt: int) -> Path:
        """Return the folder of one attempt. An attempt that lost its lease may still write to its own folder."""
        return self.settings.home.resolve() / "work" / f"{object_id}-a{attempt}"

    @cached_property
    def database(self) -> Database:
        """The database."""
        return open_database(self.settings)

    @cached_property
    def store(self) -> ArtifactStore:
        """The artifact store."""
        return open_store(self.settings.resolved_storage_url())

    @cached_property
    def input_cache(self) -> InputCache:
        """The cache of inputs that jobs fetched from a bucket."""
        root = self.settings.home.resolve() / "cache" / "inputs"
        return InputCache(self.store, root, self.settings.input_cache_bytes)

    @cached_property
    def cache_id(self) -> str:
        """ID of the folder of teacher outputs; equal on workers that share the folder."""
        return cache_id(self.settings.home.resolve() / "cache" / "teacher_outputs")

    @cached_property
    def broker(self) -> Broker:
        """The broker."""
        return Broker(self.settings.broker_url)

    def with_new_connections(self) -> Context:
        """Return a context of the same worker without connections, for a forked process."""
        return Context(self.settings, self.queue, self.worker_id)


class _Current:
    """The context of this process; the parent creates it and its pool inherits it."""

    context: Context | None = None


def init_context(settings: Settings, queue: str) -> Context:
    """Create the context of this process and of the processes forked from it."""
    _Current.context = Context(settings, queue, new_id("wrk"))
    return _Current.context


def current_context() -> Context:
    """Return the context of this process; replace an inherited one, whose connections belong to the parent."""
    assert _Current.context is not None, "init_context() was not called"
    if _Current.context.pid != os.getpid():
        _Current.context = _Current.context.with_new_connections()
    return _Current.context
