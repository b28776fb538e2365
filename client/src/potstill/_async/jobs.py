"""``/v1/jobs``: create, read and change jobs."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import httpx
from rich.console import Console

from potstill._async.files import download_file, download_plain
from potstill._async.follow import follow
from potstill._async.job import AsyncJob
from potstill._async.polling import Poll
from potstill._async.runtime import run_blocking, sleep
from potstill._async.transport import AsyncTransport
from potstill.calls import (
    Call,
    create_call,
    file_body,
    json_body,
    object_path,
    query_call,
    read_call,
    retry_delay_seconds,
    validate,
)
from potstill.documents import Artifact, Checkpoint, DirectDownload, Estimate, Event, JobLog, Prediction, Push
from potstill.downloads import StoredFile
from potstill.errors import InvalidArgument, NotReady, ServiceUnreachable
from potstill.job_files import reason_without_files, select_artifacts
from potstill.job_progress import HandleEvent, HiddenView, JobView, open_view
from potstill.job_spec import JobSpec
from potstill.loading import Format, cache_folder, load, required_files
from potstill.metrics import Metrics
from potstill.outages import OUTAGE_ERRORS, Outage
from potstill.streams import MessageParser
from potstill.transfers import ProgressOption

JobAction = Literal["cancel", "pause", "resume", "stop", "retry"]

_STREAM_TIMEOUT_SECONDS = 45.0  # the service pings at least every 15 s
_PUSH_POLL_SECONDS = 1.0
_MAX_FIRST_BREAKS = 8  # breaks of a stream before its first message


class AsyncJobs:
    """``/v1/jobs``. An argument ``job_id`` may be an id, a unique name or a unique id prefix."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, spec: JobSpec | Mapping[str, Any], *, idempotency_key: str | None = None) -> AsyncJob:
        """Submit a job. Retries of the request create it only once. Raises :class:`InvalidSpec`."""
        call = create_call("/v1/jobs", json_body(spec), idempotency_key=idempotency_key)
        return self._bind(await self._transport.read(call, AsyncJob))

    async def estimate(self, spec: JobSpec | Mapping[str, Any]) -> Estimate:
        """Estimate duration, memory and teacher cache of a job, with its warnings, without submitting it."""
        return await self._transport.read(query_call("/v1/estimates", spec), Estimate)

    async def get(self, job_id: str, *, wait_seconds: int | None = None) -> AsyncJob:
        """Get a job; with ``wait_seconds`` (at most 60), wait until it is terminal or the time is over."""
        call = read_call(object_path("jobs", job_id), wait=wait_seconds, read_seconds=30.0 + (wait_seconds or 0))
        return self._bind(await self._transport.read(call, AsyncJob))

    async def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        method: str | Sequence[str] | None = None,
        dataset: str | None = None,
        student: str | None = None,
        teacher: str | None = None,
        metadata: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        sweep: str | None = None,
        search: str | None = None,
        sort: str | None = None,
        order: Literal["desc", "asc"] | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[AsyncJob]:
        """Iterate over the jobs that match all filters, newest first; pages are fetched when they are needed.

        ``search`` are words of the name, id, method, student or a teacher; ``metadata`` are entries that must match;
        ``sweep`` is the id of a sweep.
        ``sort`` is ``created_at``, ``seconds``, or a measure of the student such as ``top1``; ``order`` its direction.
        """
        filters: dict[str, Any] = {
            "status": status,
            "method": method,
            "dataset": dataset,
            "student": student,
            "teacher": teacher,
            "metadata": [f"{key}:{value}" for key, value in metadata.items()] if metadata else None,
            "created_after": created_after.astimezone().isoformat() if created_after is not None else None,
            "created_before": created_before.astimezone().isoformat() if created_before is not None else None,
            "sweep": sweep,
            "search": search,
            "sort": sort,
            "order": order,
        }
        async for job in self._transport.pages("/v1/jobs", AsyncJob, limit=limit, **filters):
            yield self._bind(job)

    async def delete(self, job_id: str) -> None:
        """Delete a finished job and its files."""
        await self._transport.delete(object_path("jobs", job_id))

    async def cancel(self, job_id: str) -> AsyncJob:
        """Cancel a job; its last checkpoint is retained. Raises :class:`InvalidState`, like all actions."""
        return await self.post_action(job_id, "cancel")

    async def pause(self, job_id: str) -> AsyncJob:
        """Pause a job; it can resume from the last step."""
        return await self.post_action(job_id, "pause")

    async def resume(self, job_id: str) -> AsyncJob:
        """Resume a paused job."""
        return await self.post_action(job_id, "resume")

    async def stop(self, job_id: str) -> AsyncJob:
        """Stop training early; the student is still evaluated and exported."""
        return await self.post_action(job_id, "stop")

    async def retry(
        self, job_id: str, *, apply_fix: bool = False, changes: Mapping[str, Any] | None = None
    ) -> AsyncJob:
        """Retry a failed or cancelled job after applying its error's ``fix`` and a merge patch of the spec."""
        has_changes = apply_fix or changes
        body = json_body({"apply_fix": apply_fix, "changes": dict(changes or {})}) if has_changes else None
        # Not repeatable: a second retry fails because the job is already queued.
        call = Call("POST", object_path("jobs", job_id, "retry"), repeatable=False, body=body)
        return self._bind(await self._transport.read(call, AsyncJob))

    async def post_action(self, job_id: str, action: JobAction) -> AsyncJob:
        """Run an action that is named by a text. Raises :class:`InvalidState`."""
        if action == "retry":
            return await self.retry(job_id)
        call = Call("POST", object_path("jobs", job_id, action), repeatable=True)
        return self._bind(await self._transport.read(call, AsyncJob))

    async def wait(
        self,
        job_id: str,
        *,
        timeout_seconds: float | None = None,
        progress: bool = False,
        check: bool = False,
        console: Console | None = None,
        on_event: HandleEvent | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> AsyncJob:
        """Wait until the job is terminal, and return it. Continue after an outage of the service.

        ``progress`` shows a bar with loss, accuracy and remaining time; without a terminal, a line for each stage and
        each minute. ``on_event`` receives the job's events instead of the console. With ``check`` a job that does not
        succeed raises :class:`JobFailed`. Raises :class:`NotReady` after the timeout; the job goes on.
        """
        view: JobView = HiddenView()
        if progress:
            view = open_view(console or Console(stderr=True), on_event=on_event, clock=clock)
        job = await follow(self, job_id, view, timeout_seconds=timeout_seconds, clock=clock)
        if check:
            job.raise_for_status()
        return job

    async def events(self, job_id: str, *, after_seq: int = 0) -> AsyncIterator[Event]:
        """Stream the job's events after ``after_seq`` until its end; resume broken connections without gaps.

        Goes on after an outage of the service. Raises :class:`ServiceUnreachable` if there is none to begin with.
        """
        breaks, outage, has_begun = 0, Outage(), False
        while True:
            try:
                async for event in self._stream(job_id, after_seq):
                    breaks, after_seq, has_begun = 0, event.seq, True
                    outage.end()
                    yield event
                # The stream also ends when the service shuts down, so check the job's status.
                if (await self.get(job_id)).terminal:
                    async for event in self.past_events(job_id):
                        if event.seq > after_seq:
                            yield event
                    return
                outage.end()
            except OUTAGE_ERRORS as error:
                if not outage.accepts(error) or (breaks >= _MAX_FIRST_BREAKS and not has_begun):
                    if isinstance(error, httpx.TransportError):
                        raise ServiceUnreachable(f"the event stream keeps breaking: {error}") from error
                    raise
            await sleep(retry_delay_seconds(breaks))
            breaks += 1

    def past_events(
        self, job_id: str, *, after_id: str | None = None, limit: int | None = None
    ) -> AsyncIterator[Event]:
        """Iterate over the events so far after the event ``after_id``, oldest first."""
        return self._transport.pages(object_path("jobs", job_id, "events"), Event, after=after_id, limit=limit)

    async def metrics(self, job_id: str, *, name: str | None = None, max_points: int | None = None) -> Metrics:
        """Get the metric series, each reduced to ``max_points`` points if given."""
        call = read_call(object_path("jobs", job_id, "metrics"), name=name, max_points=max_points)
        return await self._transport.read(call, Metrics)

    async def logs(self, job_id: str) -> JobLog:
        """Get the last log lines of the job's process; of a running job those of a few seconds ago."""
        return await self._transport.read(read_call(object_path("jobs", job_id, "logs")), JobLog)

    async def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """List the job's output files."""
        return await self._transport.read_list(read_call(object_path("jobs", job_id, "artifacts")), Artifact)

    def checkpoints(self, job_id: str, *, limit: int | None = None) -> AsyncIterator[Checkpoint]:
        """Iterate over the stored checkpoints, newest first."""
        return self._transport.pages(object_path("jobs", job_id, "checkpoints"), Checkpoint, limit=limit)

    async def download(
        self, job_id: str, folder: Path | str, *, names: Sequence[str] | None = None, progress: ProgressOption = False
    ) -> Sequence[Path]:
        """Download all artifacts, or those in ``names``, into ``folder`` and verify their SHA-256.

        A broken download resumes, also in a later call; a file that is already there is not downloaded again. Raises
        :class:`NotReady` for a job without files, :class:`InvalidArgument` for an unknown name, and
        :class:`DownloadDamaged`.
        """
        listed = await self.artifacts(job_id)
        if not listed:
            raise NotReady(reason_without_files(await self.get(job_id)))
        paths = []
        for artifact in select_artifacts(listed, names, job_id):
            route = object_path("jobs", job_id, "artifacts", artifact.name)
            file = StoredFile(route, artifact.name, artifact.size_bytes, artifact.sha256)
            paths.append(await download_file(self._transport, file, Path(folder), progress))
        return paths

    async def artifact_url(self, job_id: str, name: str) -> DirectDownload:
        """Get a URL of the service's bucket for one file, which needs no key until it expires.

        Raises :class:`DirectTransferUnavailable` if the service has no bucket.
        """
        call = read_call(object_path("jobs", job_id, "artifact-urls", name))
        return await self._transport.read(call, DirectDownload)

    async def push(
        self,
        job_id: str,
        repo: str,
        *,
        token: str,
        private: bool = True,
        revision: str | None = None,
        files: Sequence[str] | None = None,
        license: str | None = None,  # noqa: A002 - the word of the model card
        message: str | None = None,
        idempotency_key: str | None = None,
    ) -> Push:
        """Push the student to the model repository ``owner/name`` of the Hugging Face hub, and return at once.

        ``token`` is one of the hub. ``private`` is the visibility of a new repository. See :meth:`wait_for_push`.
        Raises :class:`NoArtifacts` for a job without files.
        """
        document = {"revision": revision, "files": files, "license": license, "message": message}
        sent = {name: value for name, value in document.items() if value is not None}
        body = json_body({"repo": repo, "token": token, "private": private, **sent})
        call = create_call(object_path("jobs", job_id, "push"), body, idempotency_key=idempotency_key)
        return await self._transport.read(call, Push)

    def pushes(self, job_id: str, *, limit: int | None = None) -> AsyncIterator[Push]:
        """Iterate over the pushes of a job, newest first."""
        return self._transport.pages(object_path("jobs", job_id, "pushes"), Push, limit=limit)

    async def get_push(self, job_id: str, push_id: str) -> Push:
        """Get a push."""
        return await self._transport.read(read_call(object_path("jobs", job_id, "pushes", push_id)), Push)

    async def wait_for_push(
        self,
        job_id: str,
        push_id: str,
        *,
        timeout_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Push:
        """Wait until a push has ended, and return it. Raises :class:`NotReady` after the timeout; the push goes on."""
        poll = Poll(timeout_seconds=timeout_seconds, clock=clock)
        while (push := await poll.read(lambda: self.get_push(job_id, push_id))).status == "pending":
            if poll.is_late:
                raise NotReady(f"the push {push_id} has not ended after {timeout_seconds:g} s")
            await sleep(_PUSH_POLL_SECONDS)
        return push

    async def download_zip(self, job_id: str, path: Path | str, *, progress: ProgressOption = False) -> Path:
        """Download all artifacts as one zip to the file ``path``. A broken download starts again."""
        call = Call("GET", object_path("jobs", job_id, "download"), repeatable=True)
        return await download_plain(self._transport, call, Path(path), progress)

    async def download_checkpoint(
        self, job_id: str, checkpoint_id: str, folder: Path | str, *, progress: ProgressOption = False
    ) -> Path:
        """Download the weights of a checkpoint to ``model.safetensors`` in ``folder``, verified like an artifact."""
        async for checkpoint in self.checkpoints(job_id):
            if checkpoint.id == checkpoint_id:
                name = "model.safetensors"
                path = object_path("jobs", job_id, "checkpoints", checkpoint_id, name)
                file = StoredFile(path, name, checkpoint.size_bytes, checkpoint.sha256)
                return await download_file(self._transport, file, Path(folder), progress)
        raise InvalidArgument(f"job {job_id} has no checkpoint {checkpoint_id}")

    async def spec_from_checkpoint(self, job_id: str, checkpoint_id: str) -> dict[str, Any]:
        """Return the spec of a job, with a student that starts from a checkpoint of it: change it and submit it."""
        job = await self.get(job_id)
        name = None if job.name is None else f"{job.name} (fork)"[:200]
        return {**job.spec, "name": name, "student": {"weights": checkpoint_id}}

    async def predict(self, job_id: str, image: Path | str) -> Prediction:
        """Classify an image file with the job's student, and with its teachers where they are small.

        Raises :class:`InvalidArgument` if there is no such file.
        """
        path = object_path("jobs", job_id, "predictions")
        call = Call("POST", path, repeatable=True, body=file_body(Path(image)))
        return await self._transport.read(call, Prediction)

    async def load(
        self,
        job_id: str,
        *,
        format: Format = "timm",  # noqa: A002 - as in other libraries
        name: str | None = None,
        folder: Path | str | None = None,
        progress: ProgressOption = False,
    ) -> Any:
        """Download the student and return it: the timm model in evaluation mode, or a session of ONNX Runtime.

        ``name`` selects an ONNX file, e.g. ``model.int8.onnx``. The files are stored in ``folder``, by default in the
        user's cache. Raises like :meth:`download`, and :class:`PackageMissing`.
        """
        if folder is None:
            folder = cache_folder((await self.get(job_id)).id)
        path = Path(folder)
        await self.download(job_id, path, names=required_files(format, name), progress=progress)
        return await run_blocking(lambda: load(path, format, name))

    async def _stream(self, job_id: str, after_seq: int) -> AsyncIterator[Event]:
        headers = {"Accept": "text/event-stream"}
        if after_seq:
            headers["Last-Event-ID"] = str(after_seq)
        call = Call(
            "GET",
            object_path("jobs", job_id, "events"),
            repeatable=True,
            headers=headers,
            read_seconds=_STREAM_TIMEOUT_SECONDS,
        )
        parser = MessageParser()
        async with self._transport.stream(call) as response:
            async for line in response.aiter_lines():
                message = parser.feed(line)
                if message is None:
                    continue
                event = validate(json.loads(message.data), Event)
                if event.seq > after_seq:
                    yield event

    def _bind(self, job: AsyncJob) -> AsyncJob:
        job._jobs = self  # noqa: SLF001 - both classes are one unit
        return job
