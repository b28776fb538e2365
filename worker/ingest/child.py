"""The forked process of an ingest: validate and store one dataset or one uploaded model.

It imports no torch: a sandboxed process below it loads the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import structlog

from core.errors import DatasetRejected, OutOfMemory, PotstillError, StorageFailed, StoredFileDamaged, Unavailable
from core.fetch.download import Downloader, DownloadLimits
from core.fetch.hub import Hub
from core.fetch.url_pattern import expand_url
from core.ingest.dataset import IngestLimits, IngestReport, ingest_builtin
from core.ingest.file_types import UNSUPPORTED_MESSAGE, may_be_archive
from core.ingest_errors import ArchiveUnreadable, IngestCrashed, IngestTimeout, ModelCheckFailed, ModelCheckTimeout
from core.reporting import Control, Interrupted
from core.settings import JOB_MEMORY_FRACTION, Settings
from core.spec.dataset_layout import LayoutOptions
from core.spec.info import ModelInfo
from core.store import datasets, models, uploads
from core.store.db import Session
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseLost
from core.store.tables import Dataset, Model
from core.store.upload_tables import Upload
from core.system.memory import total_memory
from worker.context import Context
from worker.ingest.bucket import fetch_from_bucket
from worker.ingest.hub import fetch_hub_dataset
from worker.ingest.progress import ProgressWriter
from worker.ingest.sandboxed import ProcessLimits, SandboxCrashed, SandboxTimeout, run_sandboxed
from worker.ingest.shards import fetch_shards
from worker.ingest.thumbnails import add_thumbnails
from worker.process.monitor import EXIT_DONE, EXIT_LEASE_LOST, EXIT_TEMPORARY
from worker.stored_files import publish_folder

CHECK_BYTES = 16 * 1024**3  # for torch and one model
CHECK_SECONDS = 300.0
_MAX_MESSAGE_LENGTH = 2_000

log = structlog.get_logger(__name__)

GetControl = Callable[[], Control]


def warm_up() -> None:
    """Do nothing: the imports of this module are the warm-up."""


def ingest_dataset(context: Context, dataset: Dataset, scratch: Path, control: GetControl) -> int:
    """Validate and store a dataset; return the exit status (``EXIT_DONE``: the database holds the result)."""
    ingest = partial(_store_dataset, context, dataset, scratch, control)
    return _run(context, dataset, ingest, release=datasets.release, fail=_fail_dataset)


def check_model(context: Context, model: Model, scratch: Path, control: GetControl) -> int:
    """Check and store an uploaded model; return the exit status (``EXIT_DONE``: the database holds the result)."""
    check = partial(_store_model, context, model, scratch, control)
    return _run(context, model, check, release=models.release, fail=_fail_model)


def _run(
    context: Context,
    row: Dataset | Model,
    work: Callable[[], None],
    *,
    release: Callable[[Session, IngestLeaseToken], object],
    fail: Callable[[Session, IngestLeaseToken, Exception], object],
) -> int:
    """Call ``work``; release the upload after a drain, and record the reason if the ingest fails."""
    lease, upload_key = IngestLeaseToken.from_row(row), row.upload_key
    try:
        try:
            work()
        except (LeaseLost, Unavailable):
            raise
        except Interrupted:
            with context.database.write() as session:
                release(session, lease)
            return EXIT_DONE
        except Exception as error:
            log.warning("ingest.failed", exc_info=error)
            with context.database.write() as session:
                fail(session, lease, error)
    except LeaseLost as lost:
        log.warning("ingest.lease_lost", error=str(lost))
        return EXIT_LEASE_LOST
    except Unavailable:
        log.exception("ingest.interrupted")
        return EXIT_TEMPORARY
    if upload_key is not None:
        _delete_upload(context, upload_key)
    if row.upload_id is not None:
        _delete_consumed(context, row.upload_id)
    return EXIT_DONE


def _fail_dataset(session: Session, lease: IngestLeaseToken, error: Exception) -> None:
    rejected = error.extra.get("rejected") if isinstance(error, DatasetRejected) else None
    datasets.fail(session, lease, _error_fields(error), rejected=rejected or ())


def _fail_model(session: Session, lease: IngestLeaseToken, error: Exception) -> None:
    models.fail(session, lease, _error_fields(error))


def _store_dataset(context: Context, dataset: Dataset, scratch: Path, control: GetControl) -> None:
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = scratch / "stored"
    report = _ingest(context, dataset, folder, scratch, control)
    memory_bytes = _process_limits(context.settings).memory_bytes
    add_thumbnails(folder, dataset.id, scratch=scratch, memory_bytes=memory_bytes, control=control)
    files = publish_folder(context.store, folder, f"datasets/{dataset.id}/a{dataset.attempt}")
    with context.database.write() as session:
        datasets.mark_ready(
            session,
            IngestLeaseToken.from_row(dataset),
            files=files,
            splits=report.splits,
            num_classes=report.num_classes,
            classes=report.classes,
            channels=report.channels,
            image_size=report.image_size,
            value_range=None if report.value_range is None else report.value_range.model_dump(),
            cropped_fraction=report.cropped_fraction,
            fingerprint=report.fingerprint,
            size_bytes=report.size_bytes,
            rejected=[asdict(rejected) for rejected in report.rejected],
            warnings=report.warnings,
        )


def _ingest(context: Context, dataset: Dataset, folder: Path, scratch: Path, control: GetControl) -> IngestReport:
    report_progress = ProgressWriter(context, IngestLeaseToken.from_row(dataset))
    if dataset.source["type"] == "builtin":

        def poll(processed: int, total: int | None) -> None:
            _raise_if_drained(control)
            report_progress(processed, total)

        return ingest_builtin(dataset.source["name"], folder, progress=poll)
    match dataset.source["type"]:
        case "url":
            file = _download(context, dataset, scratch, control)
        case "s3":
            file = _fetch_from_bucket(context, dataset, scratch, control)
        case "huggingface":
            file = _fetch_from_hub(context, dataset, scratch, control)
        case _:
            file = _fetch_upload(context, dataset, scratch, control)
    request = {
        "file": str(file),
        "out_folder": str(folder),
        "name": dataset.name,
        "layout": {name: dataset.source[name] for name in LayoutOptions.model_fields if name in dataset.source},
        "limits": asdict(_limits(context.settings)),
        "processes": context.settings.ingest_processes,
    }
    limits = _process_limits(context.settings)
    try:
        report = run_sandboxed(
            "core.ingest.sandboxed_main",
            request,
            limits,
            scratch=scratch,
            control=control,
            on_progress=report_progress,
        )
    except SandboxTimeout:
        raise IngestTimeout(
            f"Reading and decoding the files took more than {limits.seconds:g} s of processor time; "
            "send fewer or smaller ones."
        ) from None
    except SandboxCrashed as crash:
        raise IngestCrashed(
            f"The process that read the archive ended {crash.reason}: the archive makes its reader crash. "
            "Pack the files again, or send parts to find the one that does."
        ) from None
    return IngestReport.from_document(report)


def _limits(settings: Settings) -> IngestLimits:
    return IngestLimits(
        max_unpacked_bytes=settings.max_unpacked_bytes,
        max_unpack_ratio=settings.max_unpack_ratio,
        max_archive_files=settings.max_archive_files,
        max_image_pixels=settings.max_image_pixels,
        max_file_bytes=settings.max_file_bytes,
    )


def _process_limits(settings: Settings) -> ProcessLimits:
    return ProcessLimits(
        memory_bytes=settings.ingest_memory_bytes,
        file_bytes=settings.max_unpacked_bytes,
        seconds=settings.ingest_seconds,
    )


def _store_model(context: Context, model: Model, scratch: Path, control: GetControl) -> None:
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = scratch / "stored"
    request = {
        "file": str(_fetch_upload(context, model, scratch, control)),
        "architecture": model.architecture,
        "arguments": model.arguments,
        "normalization": model.normalization,
        "classes": model.classes,
        "out_folder": str(folder),
    }
    # Half precision is stored as single precision: twice the bytes.
    file_bytes = 2 * context.settings.max_upload_bytes
    memory_bytes = min(CHECK_BYTES, int(JOB_MEMORY_FRACTION * (total_memory() or CHECK_BYTES)))
    limits = ProcessLimits(memory_bytes=memory_bytes, file_bytes=file_bytes, seconds=CHECK_SECONDS)
    try:
        model_info = run_sandboxed("core.models.upload_check", request, limits, scratch=scratch, control=control)
    except SandboxTimeout:
        raise ModelCheckTimeout("Loading and running the model took too long; upload a smaller one.") from None
    except SandboxCrashed as crash:
        raise ModelCheckFailed(
            f"The process that loaded the model ended {crash.reason}; it may need more memory than there is."
        ) from None
    files = publish_folder(context.store, folder, f"models/{model.id}/a{model.attempt}")
    with context.database.write() as session:
        models.mark_ready(
            session, IngestLeaseToken.from_row(model), files=files, info=ModelInfo.model_validate(model_info)
        )


def _fetch_upload(context: Context, row: Dataset | Model, scratch: Path, control: GetControl) -> Path:
    """Return the path of the uploaded file on this machine; fetch it if the store is remote or holds it in parts."""
    if row.upload_id is not None:
        return _join_upload(context, row.upload_id, scratch / "upload", control)
    assert row.upload_key is not None, "a row without a builtin dataset has an upload"
    local_path = context.store.local_path(row.upload_key)
    if local_path is not None:
        return local_path
    context.store.fetch(row.upload_key, scratch / "upload")
    return scratch / "upload"


def _join_upload(context: Context, upload_id: str, path: Path, control: GetControl) -> Path:
    """Write the parts of a resumable upload into one file, and verify their hashes."""
    with context.database.read() as session:
        parts = uploads.list_parts(session, upload_id)
    with path.open("xb") as file:
        for part in parts:
            _raise_if_drained(control)
            digest = hashlib.sha256()
            for chunk in context.store.open(part.key):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != part.sha256:
                raise StoredFileDamaged(f"The stored file {part.key} is damaged: its sha256 differs.")
    return path


def _download(context: Context, dataset: Dataset, scratch: Path, control: GetControl) -> Path:
    """Download the URL of the dataset to this machine."""

    def require_archive(head: bytes) -> None:
        if not may_be_archive(head):
            raise ArchiveUnreadable(UNSUPPORTED_MESSAGE)

    def save(url: str, path: Path, max_bytes: int) -> None:
        downloader = _downloader(context.settings)
        downloader = replace(downloader, limits=replace(downloader.limits, max_bytes=max_bytes))
        downloader.save(url, path, check_head=require_archive, on_chunk=lambda: _raise_if_drained(control))

    return _fetch_urls(context, dataset, scratch, save)


def _fetch_from_bucket(context: Context, dataset: Dataset, scratch: Path, control: GetControl) -> Path:
    """Download the file, folder or shards of the dataset from a bucket to this machine."""

    def save(url: str, path: Path, max_bytes: int) -> None:
        fetch_from_bucket(
            url,
            path,
            max_bytes=max_bytes,
            max_files=context.settings.max_archive_files,
            on_chunk=lambda: _raise_if_drained(control),
        )

    return _fetch_urls(context, dataset, scratch, save)


def _fetch_urls(context: Context, dataset: Dataset, scratch: Path, fetch: Callable[[str, Path, int], None]) -> Path:
    """Fetch the URL of the dataset, or all URLs of its pattern, with ``fetch(url, path, max_bytes)``."""
    path, max_bytes = scratch / "upload", context.settings.max_upload_bytes
    urls = expand_url(dataset.source["url"])
    if len(urls) > 1:
        return fetch_shards(urls, path, max_bytes=max_bytes, fetch=fetch)
    fetch(urls[0], path, max_bytes)
    return path


def _fetch_from_hub(context: Context, dataset: Dataset, scratch: Path, control: GetControl) -> Path:
    """Download the dataset's files from the hub to this machine; its source then names the commit."""
    lease = IngestLeaseToken.from_row(dataset)

    def record_commit(commit: str) -> None:
        with context.database.write() as session:
            datasets.record_commit(session, lease, commit)

    hub = Hub(
        downloader=_downloader(context.settings),
        endpoint=context.settings.hub_endpoint.rstrip("/"),
        scratch=scratch,
        on_chunk=lambda: _raise_if_drained(control),
    )
    return fetch_hub_dataset(hub, dataset.source, scratch / "upload", on_commit=record_commit)


def _downloader(settings: Settings) -> Downloader:
    limits = DownloadLimits(
        max_bytes=settings.max_upload_bytes, seconds=settings.fetch_seconds, idle_seconds=settings.fetch_idle_seconds
    )
    return Downloader(policy=settings.network_policy, limits=limits)


def _raise_if_drained(control: GetControl) -> None:
    if control() is Control.DRAIN:
        raise Interrupted(Control.DRAIN)


def _error_fields(error: Exception) -> dict[str, str]:
    match error:
        case PotstillError():
            code, message = error.code, error.detail
        case MemoryError():
            code, message = OutOfMemory.code, "There was not enough memory; are there extraordinarily large images?"
        case OSError():
            code, message = StorageFailed.code, f"This machine's disk failed: {error.strerror or error}."
        case _:
            code, message = "internal_error", f"{type(error).__name__}: {error}"
    return {"code": code, "message": message[:_MAX_MESSAGE_LENGTH]}


def _delete_consumed(context: Context, upload_id: str) -> None:
    """Delete the files of a resumable upload if its row is deleted, which it is when its dataset or model is ready."""
    with context.database.read() as session:
        if session.get(Upload, upload_id) is not None:
            return
    try:
        context.store.delete_prefix(uploads.part_prefix(upload_id))
    except StorageFailed as error:
        log.warning("garbage.delete_failed", key=uploads.part_prefix(upload_id), error=error.detail)


def _delete_upload(context: Context, key: str) -> None:
    """Delete the uploaded file after the ingest. Garbage collection deletes it if this fails."""
    try:
        context.store.delete(key)
    except StorageFailed as error:
        log.warning("garbage.delete_failed", key=key, error=error.detail)
