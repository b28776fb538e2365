"""Taking in one dataset or one uploaded model, in a process of its own; torch stays in a process below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

from core.errors import DatasetRejected, OutOfMemory, PotstillError, StorageFailed, Unavailable
from core.fetch.download import Downloader, DownloadLimits
from core.ingest.dataset import IngestLimits, IngestReport, Rejected, ingest_builtin
from core.ingest.file_types import WANTED, may_be_archive
from core.ingest_errors import ArchiveUnreadable, IngestCrashed, IngestTimeout, ModelCheckFailed, ModelCheckTimeout
from core.reporting import Control, Interrupted
from core.settings import Settings
from core.spec.facts import ModelInfo
from core.store import datasets, models
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseLost
from core.store.tables import Dataset, Model
from worker.context import Context
from worker.ingest.sandboxed import Crashed, OutOfTime, ProcessLimits, run_sandboxed
from worker.process.monitor import DONE, LEASE_LOST, TEMPORARY
from worker.stored_files import publish_folder

CHECK_BYTES = 16 * 1024**3  # for torch and one model
CHECK_SECONDS = 300.0
_MESSAGE_LENGTH = 2_000

log = structlog.get_logger(__name__)

Asked = Callable[[], Control]


def warm_up() -> None:
    """Nothing beyond the imports."""


def ingest_dataset(context: Context, row: Dataset | Model, scratch: Path, control: Asked) -> int:
    """Validate and store a dataset; the exit status, 0 where the database says how it ended."""
    assert isinstance(row, Dataset)
    return _answered(lambda: _store_dataset(context, row, scratch, control), datasets, context, row)


def check_model(context: Context, row: Dataset | Model, scratch: Path, control: Asked) -> int:
    """Check and store an uploaded model; the exit status, 0 where the database says how it ended."""
    assert isinstance(row, Model)
    return _answered(lambda: _store_model(context, row, scratch, control), models, context, row)


def _answered(work: Callable[[], None], store: ModuleType, context: Context, row: Dataset | Model) -> int:
    """Do the work, or say why it cannot be done."""
    holding, upload = IngestLeaseToken.of(row), row.upload_key
    try:
        try:
            work()
        except (LeaseLost, Unavailable):
            raise
        except Interrupted:
            with context.database.write() as session:
                store.hand_back(session, holding)
            return DONE
        except Exception as error:
            log.warning("intake.failed", exc_info=error)
            with context.database.write() as session:
                store.fail(session, holding, _described(error), **_facts(error))
    except LeaseLost as lost:
        log.warning("intake.lease_lost", error=str(lost))
        return LEASE_LOST
    except Unavailable:
        log.exception("intake.interrupted")
        return TEMPORARY
    if upload is not None:
        _delete(context, upload)
    return DONE


def _store_dataset(context: Context, dataset: Dataset, scratch: Path, control: Asked) -> None:
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = scratch / "stored"
    report = _ingested(context, dataset, folder, scratch, control)
    files = publish_folder(context.store, folder, f"datasets/{dataset.id}/a{dataset.attempt}")
    with context.database.write() as session:
        datasets.ready(
            session,
            IngestLeaseToken.of(dataset),
            files=files,
            splits=report.splits,
            num_classes=report.num_classes,
            classes=report.classes,
            channels=report.channels,
            image_size=report.image_size,
            fingerprint=report.fingerprint,
            size_bytes=report.size_bytes,
            rejected=[asdict(rejected) for rejected in report.rejected],
        )


def _ingested(context: Context, dataset: Dataset, folder: Path, scratch: Path, control: Asked) -> IngestReport:
    if dataset.source["type"] == "builtin":
        return ingest_builtin(dataset.source["name"], folder, progress=lambda _num_files: _leave_if_asked(control))
    fetched = dataset.source["type"] == "url"
    file = _download(context, dataset, scratch, control) if fetched else _upload(context, dataset, scratch)
    question = {
        "file": str(file),
        "out_folder": str(folder),
        "name": dataset.name,
        "labels": dataset.source.get("labels", "auto"),  # absent in rows from before it could be said
        "limits": asdict(_limits(context.settings)),
    }
    limits = _process_limits(context.settings)
    try:
        answer = run_sandboxed("core.ingest.sandboxed_main", question, limits, scratch=scratch, control=control)
    except OutOfTime:
        raise IngestTimeout(
            f"Reading and decoding the files took longer than {limits.seconds:g} s; send fewer or smaller ones."
        ) from None
    except Crashed as crashed:
        raise IngestCrashed(
            f"The process that read the files ended {crashed.how}: one of them makes its decoder crash. "
            "Write them anew, or send parts to find which."
        ) from None
    answer["rejected"] = tuple(Rejected(**rejected) for rejected in answer["rejected"])
    return IngestReport(**answer)


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


def _store_model(context: Context, model: Model, scratch: Path, control: Asked) -> None:
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = scratch / "stored"
    question = {
        "file": str(_upload(context, model, scratch)),
        "architecture": model.architecture,
        "arguments": model.arguments,
        "normalization": model.normalization,
        "classes": model.classes,
        "out_folder": str(folder),
    }
    # Half precision is stored as single: twice the bytes.
    file_bytes = 2 * context.settings.max_upload_bytes
    limits = ProcessLimits(memory_bytes=CHECK_BYTES, file_bytes=file_bytes, seconds=CHECK_SECONDS)
    try:
        answer = run_sandboxed("core.models.upload_check", question, limits, scratch=scratch, control=control)
    except OutOfTime:
        raise ModelCheckTimeout("Loading and running the model took too long; upload a smaller one.") from None
    except Crashed as crashed:
        raise ModelCheckFailed(
            f"The process that loaded the model ended {crashed.how}; it may need more memory than there is."
        ) from None
    files = publish_folder(context.store, folder, f"models/{model.id}/a{model.attempt}")
    with context.database.write() as session:
        models.ready(session, IngestLeaseToken.of(model), files=files, facts=ModelInfo.model_validate(answer))


def _upload(context: Context, row: Dataset | Model, scratch: Path) -> Path:
    """What was sent, on this machine's disk."""
    assert row.upload_key is not None, "what is not built in was uploaded"
    local = context.store.local_path(row.upload_key)
    if local is not None:
        return local
    context.store.fetch(row.upload_key, scratch / "upload")
    return scratch / "upload"


def _download(context: Context, dataset: Dataset, scratch: Path, control: Asked) -> Path:
    """What the URL leads to, on this machine's disk."""
    settings = context.settings

    def look(head: bytes) -> None:
        if not may_be_archive(head):
            raise ArchiveUnreadable(WANTED)

    limits = DownloadLimits(
        max_bytes=settings.max_upload_bytes, seconds=settings.fetch_seconds, idle_seconds=settings.fetch_idle_seconds
    )
    downloader = Downloader(reach=settings.network_policy, limits=limits)
    downloader.save(dataset.source["url"], scratch / "upload", look=look, keep_going=lambda: _leave_if_asked(control))
    return scratch / "upload"


def _leave_if_asked(control: Asked) -> None:
    if control() is Control.DRAIN:
        raise Interrupted(Control.DRAIN)


def _described(error: Exception) -> dict[str, str]:
    match error:
        case PotstillError():
            code, message = error.code, error.detail
        case MemoryError():
            code, message = OutOfMemory.code, "There was not enough memory; are there extraordinarily large images?"
        case OSError():
            code, message = StorageFailed.code, f"This machine's disk failed: {error.strerror or error}."
        case _:
            code, message = "internal_error", f"{type(error).__name__}: {error}"
    return {"code": code, "message": message[:_MESSAGE_LENGTH]}


def _facts(error: Exception) -> dict[str, Any]:
    """Which files were left out, where that is why nothing is left."""
    rejected = error.extra.get("rejected") if isinstance(error, DatasetRejected) else None
    return {"rejected": rejected} if rejected else {}


def _delete(context: Context, key: str) -> None:
    """Delete what was sent: it is stored in its own form now, or of no use. What stays is the collector's."""
    try:
        context.store.delete(key)
    except StorageFailed as error:
        log.warning("garbage.left", key=key, error=error.detail)
