"""Taking in one dataset or one uploaded model, in a process of its own; torch stays in a process below it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog

from core.data.ingest import IngestLimits, IngestReport, ingest_archive, ingest_builtin
from core.errors import OutOfMemory, PotstillError, RunError, StorageFailed, Unavailable, restore_error
from core.lifeline import die_with_parent
from core.reporting import Control, Interrupted
from core.settings import Settings
from core.spec.facts import ModelFacts
from core.store import datasets, models
from core.store.intake import Holding
from core.store.leases import LeaseLost
from core.store.tables import Dataset, Model
from worker.context import Context
from worker.files import publish_folder
from worker.fresh import limit_memory

DONE, LEASE_LOST, TEMPORARY = 0, 3, 75
INGEST_BYTES = 4 * 1024**3  # what hostile images can make a decoder ask for
CHECK_BYTES = 16 * 1024**3  # for torch and one model
CHECK_SECONDS = 300.0
_MESSAGE_LENGTH = 2_000

log = structlog.get_logger(__name__)

Asked = Callable[[], Control]


class CheckFailed(RunError):
    """An uploaded model that cannot be checked."""

    code = "model_check_failed"
    fault = "data"


def warm_up() -> None:
    """Nothing beyond the imports."""


def take_in_dataset(context: Context, row: Dataset | Model, scratch: Path, control: Asked) -> int:
    """Validate and store a dataset; the exit status, 0 where the database says how it ended."""
    assert isinstance(row, Dataset)
    limit_memory(INGEST_BYTES)
    return _answered(lambda: _store_dataset(context, row, scratch, control), datasets, context, row)


def check_model(context: Context, row: Dataset | Model, scratch: Path, control: Asked) -> int:
    """Check and store an uploaded model; the exit status, 0 where the database says how it ended."""
    assert isinstance(row, Model)
    return _answered(lambda: _store_model(context, row, scratch, control), models, context, row)


def _answered(work: Callable[[], None], store: ModuleType, context: Context, row: Dataset | Model) -> int:
    """Do the work, or say why it cannot be done."""
    holding, upload = Holding.of(row), row.upload_key
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
                store.fail(session, holding, _described(error))
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
            Holding.of(dataset),
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
    def progress(_num_files: int) -> None:
        if control() is Control.DRAIN:
            raise Interrupted(Control.DRAIN)

    if dataset.source["type"] == "builtin":
        return ingest_builtin(dataset.source["name"], folder, progress=progress)
    upload = _upload(context, dataset, scratch)
    return ingest_archive(
        upload,
        folder,
        _limits(context.settings),
        name=dataset.name,
        labels=dataset.source.get("labels", "auto"),  # absent in rows from before it could be said
        progress=progress,
    )


def _limits(settings: Settings) -> IngestLimits:
    return IngestLimits(
        max_unpacked_bytes=settings.max_unpacked_bytes,
        max_unpack_ratio=settings.max_unpack_ratio,
        max_archive_files=settings.max_archive_files,
        max_image_pixels=settings.max_image_pixels,
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
    facts = ModelFacts.model_validate(_asked(question, control))
    files = publish_folder(context.store, folder, f"models/{model.id}/a{model.attempt}")
    with context.database.write() as session:
        models.ready(session, Holding.of(model), files=files, facts=facts)


def _asked(question: dict[str, Any], control: Asked) -> dict[str, Any]:
    """Ask ``core.models.check`` in a process with limits; its facts, or the error that it found."""
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(parent)
        limit_memory(CHECK_BYTES)

    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "core.models.check"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=prepare,  # noqa: PLW1509 - this process has one thread
        text=True,
    )
    ends = time.monotonic() + CHECK_SECONDS
    message: str | None = json.dumps(question)
    with process:
        while True:
            try:
                answer, _ = process.communicate(message, timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                message = None  # communicate() keeps what it has not written yet
                if control() is Control.DRAIN:
                    process.kill()
                    raise Interrupted(Control.DRAIN) from None
                if time.monotonic() > ends:
                    process.kill()
                    raise CheckFailed("Loading and running the model took too long; upload a smaller one.") from None
    if process.returncode != 0:
        raise CheckFailed("The process that loaded the model died; it may need more memory than there is.")
    document: dict[str, Any] = json.loads(answer)
    if "error" in document:
        raise restore_error(document["error"])
    return dict(document["ok"])


def _upload(context: Context, row: Dataset | Model, scratch: Path) -> Path:
    """What was sent, on this machine's disk."""
    assert row.upload_key is not None, "what is not built in was uploaded"
    local = context.store.local_path(row.upload_key)
    if local is not None:
        return local
    context.store.fetch(row.upload_key, scratch / "upload")
    return scratch / "upload"


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


def _delete(context: Context, key: str) -> None:
    """Delete what was sent: it is stored in its own form now, or of no use. What stays is the collector's."""
    try:
        context.store.delete(key)
    except StorageFailed as error:
        log.warning("garbage.left", key=key, error=error.detail)
