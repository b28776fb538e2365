"""What a worker's processes share by name: settings, identity, and connections that each opens for itself."""

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
from worker.input_cache import InputCache


class Context:
    """One process's view of the service. Connections are opened on first use and never cross a fork."""

    def __init__(self, settings: Settings, queue: str, worker_id: str) -> None:
        self.settings = settings
        self.queue = queue
        self.worker_id = worker_id
        self.pid = os.getpid()

    @property
    def accelerator(self) -> Literal["cpu", "cuda"]:
        """What this worker claims jobs for."""
        return "cuda" if self.queue == JOB_QUEUES["cuda"] else "cpu"

    def scratch(self, object_id: str, attempt: int) -> Path:
        """The folder of one attempt: one that lost its lease may still be writing in its own."""
        return self.settings.home.resolve() / "work" / f"{object_id}-a{attempt}"

    @cached_property
    def database(self) -> Database:
        """The database."""
        return open_database(self.settings)

    @cached_property
    def store(self) -> ArtifactStore:
        """The artefact store."""
        return open_store(self.settings.resolved_storage_url())

    @cached_property
    def inputs(self) -> InputCache:
        """What was brought here out of a bucket."""
        root = self.settings.home.resolve() / "cache" / "inputs"
        return InputCache(self.store, root, self.settings.input_cache_bytes)

    @cached_property
    def hints(self) -> Broker:
        """The broker."""
        return Broker(self.settings.broker_url)

    def in_this_process(self) -> Context:
        """The same worker, with connections of its own: for a process that was just forked."""
        return Context(self.settings, self.queue, self.worker_id)


class _Current:
    """The context of the worker that this process belongs to; made by the parent, inherited by its pool."""

    context: Context | None = None


def begin(settings: Settings, queue: str) -> Context:
    """Give this process, and those forked from it, their identity."""
    _Current.context = Context(settings, queue, new_id("wrk"))
    return _Current.context


def current() -> Context:
    """The context of this process, with connections that are its own."""
    assert _Current.context is not None, "begin() comes first"
    if _Current.context.pid != os.getpid():
        _Current.context = _Current.context.in_this_process()
    return _Current.context
