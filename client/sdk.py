"""The Python SDK.

>>> with Potstill("http://127.0.0.1:8000", "ps_…") as potstill:
...     dataset = potstill.datasets.wait(potstill.datasets.create({"type": "builtin", "name": "digits"})["id"])
...     job = potstill.jobs.wait(potstill.jobs.submit({"dataset": dataset["id"], ...})["id"])
...     potstill.jobs.download(job["id"], Path("student"))

An argument ``dataset_id``, ``model_id`` or ``job_id`` may also be a unique name or a unique id prefix. Responses are
plain dictionaries, typed in :mod:`client.documents`. Every call raises :class:`client.errors.ApiError` for an error
response and :class:`client.errors.ServiceUnreachable` if the service does not respond. Retries are idempotent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import httpx

from client.documents import Artifact, Dataset, Event, Job, JobAction, Model, Series
from client.errors import ApiError, ClientError, NotReady, ServiceUnreachable
from client.files import download, packed_archive
from client.ingest_wait import wait_until_ready
from client.keys import Keys
from client.streams import read_messages
from client.transport import Transport, new_idempotency_key, object_path, read_pages, retry_delay_seconds

_LONG_POLL_SECONDS = 30
_STREAM_TIMEOUT_SECONDS = 45.0  # the service pings at least every 15 s
_MAX_STREAM_BREAKS = 8  # consecutive breaks without a message


class Potstill:
    """A connection to one service. Close it, or use it as a context manager."""

    def __init__(
        self, base_url: str, api_key: str, *, max_retries: int = 4, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._transport = Transport(base_url, api_key, max_retries=max_retries, transport=transport)
        self.base_url = self._transport.base_url
        self.datasets = Datasets(self._transport)
        self.models = Models(self._transport)
        self.jobs = Jobs(self._transport)
        self.keys = Keys(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def architectures(self, search: str = "", *, limit: int = 20) -> list[dict[str, Any]]:
        """List matching timm architectures, best match first."""
        page = self._transport.get("/v1/architectures", params={"search": search or None, "limit": limit})
        return cast("list[dict[str, Any]]", page["data"])

    def methods(self) -> list[dict[str, Any]]:
        """List the methods with their parameters as JSON Schema."""
        return cast("list[dict[str, Any]]", self._transport.get("/v1/methods")["data"])

    def estimate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Estimate duration, memory and results of a job without submitting it."""
        return cast("dict[str, Any]", self._transport.query("/v1/estimates", dict(spec)))

    def usage(self) -> dict[str, Any]:
        """Return usage and limits of the project, and rate limits of this key."""
        return cast("dict[str, Any]", self._transport.get("/v1/usage"))

    def audit_log(
        self, *, key: str | None = None, action: str | None = None, object_id: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """List the audit log, newest first. Requires the scope admin."""
        return read_pages(self._transport, "/v1/audit-log", key=key, action=action, object_id=object_id)

    def workers(self) -> dict[str, Any]:
        """List the workers with their devices and jobs."""
        return cast("dict[str, Any]", self._transport.get("/v1/workers"))


class Datasets:
    """``/v1/datasets``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, source: Mapping[str, Any], *, name: str | None = None, idempotency_key: str | None = None
    ) -> Dataset:
        """Create a dataset from a source that the service reads, e.g. a built-in one."""
        document = {"name": name or str(source.get("name", "dataset")), "source": dict(source)}
        created = self._transport.create("/v1/datasets", lambda _: {"json": document}, idempotency_key=idempotency_key)
        return cast("Dataset", created)

    def add(
        self,
        *,
        url: str,
        name: str | None = None,
        labels: Literal["auto", "none"] = "auto",
        splits: Mapping[str, str] | str = "auto",
        class_from: Literal["auto", "first", "parent"] = "auto",
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Create a dataset from an archive or Parquet file that the service downloads from an https URL.

        ``name`` defaults to the file name. The other arguments are those of :meth:`upload`.
        """
        source = {"type": "url", "url": url, **_layout_fields(labels, splits, class_from)}
        document = {"source": source} | ({} if name is None else {"name": name})
        created = self._transport.create("/v1/datasets", lambda _: {"json": document}, idempotency_key=idempotency_key)
        return cast("Dataset", created)

    def upload(
        self,
        path: Path | str,
        *,
        name: str | None = None,
        labels: Literal["auto", "none"] = "auto",
        splits: Mapping[str, str] | str = "auto",
        class_from: Literal["auto", "first", "parent"] = "auto",
        idempotency_key: str | None = None,
    ) -> Dataset:
        """Upload an archive, a Parquet file, or a folder, which is packed first.

        ``labels="none"`` makes an unlabeled dataset and ignores folders and label columns. ``splits`` names the
        folders of the splits, e.g. ``{"train": "seg_train", "test": "seg_test"}``; ``"none"`` if no folder is one.
        ``class_from`` is the folder that names the class: the ``first`` below the split, or the image's ``parent``.
        Raises :class:`ClientError` if there is no such file.
        """
        path = Path(path)
        fields = {"name": name or path.resolve().stem, **_layout_fields(labels, splits, class_from, as_text=True)}
        with packed_archive(path) as archive:
            created = self._transport.create(
                "/v1/datasets",
                lambda stack: {
                    "data": fields,
                    "files": {"file": (archive.name, stack.enter_context(archive.open("rb")))},
                },
                idempotency_key=idempotency_key,
            )
        return cast("Dataset", created)

    def get(self, dataset_id: str) -> Dataset:
        """Get a dataset."""
        return cast("Dataset", self._transport.get(object_path("datasets", dataset_id)))

    def list(self) -> Iterator[Dataset]:
        """Iterate over all datasets, newest first; pages are fetched lazily."""
        return cast("Iterator[Dataset]", read_pages(self._transport, "/v1/datasets"))

    def wait(
        self,
        dataset_id: str,
        *,
        timeout_seconds: float = 600.0,
        on_progress: Callable[[Dataset], object] | None = None,
    ) -> Dataset:
        """Wait until the dataset is ready. Raises :class:`IngestFailed` or :class:`NotReady`.

        ``on_progress`` receives each document that is read meanwhile.
        """
        read = partial(self.get, dataset_id)
        return cast("Dataset", wait_until_ready(read, "dataset", timeout_seconds, on_progress))

    def delete(self, dataset_id: str) -> None:
        """Delete a dataset that no job uses."""
        self._transport.delete(object_path("datasets", dataset_id))


def _layout_fields(
    labels: str, splits: Mapping[str, str] | str, class_from: str, *, as_text: bool = False
) -> dict[str, Any]:
    """Return the fields that differ from their defaults. A form sends the folders of the splits as JSON text."""
    folders = splits if isinstance(splits, str) else dict(splits)
    fields = {"labels": labels, "splits": folders, "class_from": class_from}
    return {
        name: json.dumps(value) if as_text and isinstance(value, dict) else value
        for name, value in fields.items()
        if value != "auto"
    }


class Models:
    """``/v1/models``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        path: Path | str,
        *,
        architecture: str,
        arguments: Mapping[str, Any] | None = None,
        name: str | None = None,
        normalization: Mapping[str, Any] | None = None,
        classes: list[str] | None = None,
    ) -> Model:
        """Upload a safetensors file for a timm architecture. Raises :class:`ClientError` if there is no such file."""
        path = Path(path)
        if not path.is_file():
            raise ClientError(f"there is no file {path}")
        fields = {
            "name": name or path.stem,
            "architecture": architecture,
            "arguments": json.dumps(dict(arguments or {})),
        }
        if normalization is not None:
            fields["normalization"] = json.dumps(dict(normalization))
        if classes is not None:
            fields["classes"] = json.dumps(classes)
        created = self._transport.create(
            "/v1/models",
            lambda stack: {"data": fields, "files": {"file": (path.name, stack.enter_context(path.open("rb")))}},
        )
        return cast("Model", created)

    def get(self, model_id: str) -> Model:
        """Get a model."""
        return cast("Model", self._transport.get(object_path("models", model_id)))

    def list(self) -> Iterator[Model]:
        """Iterate over all models, newest first."""
        return cast("Iterator[Model]", read_pages(self._transport, "/v1/models"))

    def wait(self, model_id: str, *, timeout_seconds: float = 600.0) -> Model:
        """Wait until the model is ready. Raises :class:`IngestFailed` or :class:`NotReady`."""
        return cast("Model", wait_until_ready(lambda: self.get(model_id), "model", timeout_seconds))

    def delete(self, model_id: str) -> None:
        """Delete a model that no job uses."""
        self._transport.delete(object_path("models", model_id))


class Jobs:
    """``/v1/jobs``."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submit a job. Retries of the request create it only once."""
        document = dict(spec)
        created = self._transport.create(
            "/v1/jobs", lambda _: {"json": document}, idempotency_key=idempotency_key or new_idempotency_key()
        )
        return cast("Job", created)

    def get(self, job_id: str, *, wait_seconds: int | None = None) -> Job:
        """Get a job; with ``wait_seconds`` (at most 60), wait until it is terminal or the time is over."""
        read_seconds = 30.0 + (wait_seconds or 0)
        return cast(
            "Job",
            self._transport.get(object_path("jobs", job_id), params={"wait": wait_seconds}, read_seconds=read_seconds),
        )

    def list(self, *, status: str | None = None) -> Iterator[Job]:
        """Iterate over all jobs, newest first; pages are fetched lazily."""
        return cast("Iterator[Job]", read_pages(self._transport, "/v1/jobs", status=status))

    def delete(self, job_id: str) -> None:
        """Delete a finished job and its files."""
        self._transport.delete(object_path("jobs", job_id))

    def post_action(self, job_id: str, action: JobAction) -> Job:
        """Cancel, pause, resume, stop or retry a job. Raises :class:`ApiError` (``invalid_state``)."""
        # A repeated retry fails because the job is already queued; the other actions are idempotent.
        return cast("Job", self._transport.post(object_path("jobs", job_id, action), repeatable=action != "retry"))

    def retry(self, job_id: str, *, apply_fix: bool = False, changes: Mapping[str, Any] | None = None) -> Job:
        """Retry a job after applying its error's ``fix`` and a merge patch. Raises like :meth:`post_action`."""
        has_changes = apply_fix or changes
        document = {"apply_fix": apply_fix, "changes": dict(changes or {})} if has_changes else None
        return cast(
            "Job", self._transport.post(object_path("jobs", job_id, "retry"), repeatable=False, document=document)
        )

    def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> Job:
        """Wait until the job is terminal. Raises :class:`NotReady` after the timeout."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            remaining = _LONG_POLL_SECONDS if deadline is None else deadline - time.monotonic()
            job = self.get(job_id, wait_seconds=max(0, min(_LONG_POLL_SECONDS, round(remaining))))
            if job["terminal"]:
                return job
            if deadline is not None and time.monotonic() >= deadline:
                raise NotReady(f"job {job_id} is still {job['status']} after {timeout_seconds:g} s")

    def events(self, job_id: str, *, after_seq: int = 0) -> Iterator[Event]:
        """Stream the job's events after ``after_seq`` until its end; resume broken connections without gaps."""
        breaks = 0
        while True:
            try:
                for event in self._stream(job_id, after_seq):
                    breaks, after_seq = 0, event["seq"]
                    yield event
                # The stream also ends when the service shuts down, so check the job's status.
                if self.get(job_id)["terminal"]:
                    yield from (event for event in self.past_events(job_id) if event["seq"] > after_seq)
                    return
            except httpx.TransportError as error:
                if breaks >= _MAX_STREAM_BREAKS:
                    raise ServiceUnreachable(f"the event stream keeps breaking: {error}") from error
            except ApiError as error:
                if error.status not in {429, 502, 503, 504} or breaks >= _MAX_STREAM_BREAKS:
                    raise
            time.sleep(retry_delay_seconds(breaks))
            breaks += 1

    def past_events(self, job_id: str, *, after_id: str | None = None) -> Iterator[Event]:
        """Iterate over the events so far after the event ``after_id``, oldest first."""
        return cast(
            "Iterator[Event]", read_pages(self._transport, object_path("jobs", job_id, "events"), after=after_id)
        )

    def metrics(self, job_id: str, *, name: str | None = None, max_points: int | None = None) -> Sequence[Series]:
        """Get the metric series, each reduced to ``max_points`` points if given."""
        response = self._transport.get(
            object_path("jobs", job_id, "metrics"), params={"name": name, "max_points": max_points}
        )
        return cast("Sequence[Series]", response["series"])

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """List the job's output files."""
        return cast("Sequence[Artifact]", self._transport.get(object_path("jobs", job_id, "artifacts"))["data"])

    def download(
        self,
        job_id: str,
        folder: Path | str,
        *,
        names: Sequence[str] | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> Sequence[Path]:
        """Download all artifacts, or those in ``names``, into ``folder`` and verify their SHA-256.

        ``on_bytes`` receives the size of every block. Raises :class:`NotReady` for a job without files, and
        :class:`DownloadDamaged`.
        """
        folder = Path(folder)
        listed = {artifact["name"]: artifact for artifact in self.artifacts(job_id)}
        if not listed:
            raise NotReady(_reason_without_files(self.get(job_id)))
        unknown = [name for name in names or () if name not in listed]
        if unknown:
            raise NotReady(f"job {job_id} has no {', '.join(unknown)}; it has {', '.join(listed)}")
        return [
            download(
                self._transport,
                object_path("jobs", job_id, "artifacts", name),
                listed[name],
                folder,
                on_bytes=on_bytes,
                pause=time.sleep,
            )
            for name in names or listed
        ]

    def _stream(self, job_id: str, after_seq: int) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream"}
        if after_seq:
            headers["Last-Event-ID"] = str(after_seq)
        path = object_path("jobs", job_id, "events")
        with self._transport.stream(path, headers=headers, read_seconds=_STREAM_TIMEOUT_SECONDS) as response:
            for message in read_messages(response.iter_lines()):
                event: Event = json.loads(message.data)
                if event["seq"] > after_seq:
                    yield event


def _reason_without_files(job: Job) -> str:
    job_id, error = job["id"], job["error"]
    if job["status"] == "failed" and error is not None:
        return f"job {job_id} failed and has no files to download: {error['message']}"
    if job["terminal"]:
        return f"job {job_id} is {job['status']} and has no files to download"
    return f"job {job_id} is {job['status']}; its files can be downloaded once it has succeeded"
