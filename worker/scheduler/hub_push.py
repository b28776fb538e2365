"""Pushes students to a hub: the handler of the kind ``push``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from core.fetch.hub_upload import HubUploader
from core.outbound_errors import PushRejected, PushTokenLost
from core.settings import Settings
from core.store import jobs
from core.store.artifact_store import ArtifactStore
from core.store.db import Database
from core.store.outbound import ClaimedTask
from core.store.sealed import SealBroken, unseal
from core.store.tables import Artifact
from worker.scheduler.outbound_runner import Attempt, Outcome


class HubPush:
    """Handler of pushes. Tests replace ``uploader``."""

    max_seconds: float | None = 24 * 3600.0

    def __init__(
        self, database: Database, store: ArtifactStore, settings: Settings, *, uploader: HubUploader | None = None
    ) -> None:
        self._database = database
        self._store = store
        self._work_dir = settings.home / "work"
        self._load_secret_key = settings.resolved_secret_key
        self._uploader = uploader or HubUploader(endpoint=settings.hub_endpoint, policy=settings.network_policy)

    def run(self, attempt: Attempt) -> Outcome:
        """Push the artifacts of a job. Raises what :meth:`HubUploader.push` raises, and :class:`PushTokenLost`."""
        task = attempt.task
        token = self._token(task)
        with self._database.read() as session:
            artifacts = {each.name: each for each in jobs.list_artifacts(session, task.project_id, task.job_id)}
        missing = [name for name in task.target["files"] if name not in artifacts]
        if missing:
            raise PushRejected(f"The job no longer has the artifact {missing[0]}.")
        with self._local_files(task, {name: artifacts[name] for name in task.target["files"]}) as files:
            pushed = self._uploader.push(
                task.target["repo"],
                files,
                token=token,
                revision=task.target["revision"],
                private=task.target["private"],
                license=task.target["license"],
                message=task.target["message"],
            )
        return Outcome(result={"commit": pushed.commit, "url": pushed.url})

    def _token(self, task: ClaimedTask) -> str:
        try:
            return unseal(self._load_secret_key(), task.id, task.secret or "")
        except SealBroken:
            raise PushTokenLost(
                "POTSTILL_SECRET_KEY differs from the one that encrypted the token. Give the scheduler the key of the "
                "API, and push again."
            ) from None

    @contextmanager
    def _local_files(self, task: ClaimedTask, artifacts: Mapping[str, Artifact]) -> Iterator[Mapping[str, Path]]:
        """Yield the paths of artifacts on this machine; those of a bucket are fetched, and deleted afterwards."""
        scratch = self._work_dir / f"{task.id}-a{task.attempt}"
        files: dict[str, Path] = {}
        try:
            for name, artifact in artifacts.items():
                path = self._store.local_path(artifact.key)
                if path is None:
                    path = scratch / name
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    self._store.fetch(artifact.key, path, sha256=artifact.sha256)
                files[name] = path
            yield files
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
