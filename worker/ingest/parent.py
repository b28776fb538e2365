"""The parent process of an ingest: claim an upload, monitor the process that ingests it, record how that ended."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from core.broker import Broker
from core.reporting import Control
from core.settings import Settings
from core.store import datasets, models
from core.store.db import Session
from core.store.ingest_leases import IngestLeaseToken
from core.store.tables import Dataset, Model
from worker.claim_loop import Claimed, LogEvents, Workload
from worker.context import Context
from worker.process.monitor import ExitReason, ProcessMonitor

Upload = TypeVar("Upload", bound=Dataset | Model)
Upload_co = TypeVar("Upload_co", bound=Dataset | Model, covariant=True)


class IngestStore(Protocol[Upload_co]):
    """The functions of ``core.store.datasets`` and ``core.store.models`` that an ingest needs."""

    def claim(self, session: Session, *, worker_id: str, lease_seconds: float) -> Upload_co | None:
        """Claim the oldest upload that waits."""

    def count_claimable(self, session: Session, /) -> int:
        """Count the claimable uploads."""

    def renew_lease(self, session: Session, lease: IngestLeaseToken, lease_seconds: float, /) -> None:
        """Renew the lease."""

    def release(self, session: Session, lease: IngestLeaseToken, /) -> Upload_co:
        """Release the upload to another worker."""


class IngestWorkload(Workload[Upload]):
    """Uploads that wait for their ingest. Only a deletion ends one early: it takes away the lease."""

    events = LogEvents("ingest.claimed", "ingest.exited", "ingest.exit_not_recorded")

    @property
    @abstractmethod
    def store(self) -> IngestStore[Upload]:
        """The store's functions for these uploads."""

    @abstractmethod
    def wake(self, broker: Broker) -> None:
        """Wake a worker for the next upload."""

    def claim(self, session: Session, context: Context) -> Claimed[Upload] | None:
        """Claim the oldest upload."""
        lease_seconds = context.settings.lease_seconds
        row = self.store.claim(session, worker_id=context.worker_id, lease_seconds=lease_seconds)
        return None if row is None else Claimed(row)

    def log_fields(self, row: Upload) -> Mapping[str, object]:
        """Return the ID of the dataset or model."""
        return {"object_id": row.id}

    def renew_lease(self, session: Session, row: Upload, lease_seconds: float) -> Control:
        """Renew the lease."""
        self.store.renew_lease(session, IngestLeaseToken.from_row(row), lease_seconds)
        return Control.GO

    def record_exit(
        self,
        session: Session,
        row: Upload,
        exit_reason: ExitReason,
        monitor: ProcessMonitor,  # noqa: ARG002
        settings: Settings,  # noqa: ARG002
    ) -> None:
        """Release the upload after a drain; otherwise let its lease expire now, which counts as a loss."""
        if exit_reason is ExitReason.FORCED:
            self.store.release(session, IngestLeaseToken.from_row(row))
        else:
            self.store.renew_lease(session, IngestLeaseToken.from_row(row), -1.0)

    def wake_next(self, context: Context) -> None:
        """Wake a worker if another upload waits."""
        with context.database.read() as session:
            num_waiting = self.store.count_claimable(session)
        if num_waiting:
            self.wake(context.broker)


# The methods `run` import the decoders late: the pool's process imported them when it started (worker.app.PRELOAD).


class DatasetWorkload(IngestWorkload[Dataset]):
    """Datasets that wait for their ingest."""

    @property
    def store(self) -> IngestStore[Dataset]:
        """The datasets' functions."""
        return datasets

    def wake(self, broker: Broker) -> None:
        """Wake a worker for the next dataset."""
        broker.wake_dataset_workers()

    def run(self, context: Context, row: Dataset, control: Callable[[], Control]) -> int:
        """Ingest the dataset."""
        from worker.ingest.child import ingest_dataset

        return ingest_dataset(context, row, context.scratch_dir(row.id, row.attempt), control)


class ModelWorkload(IngestWorkload[Model]):
    """Uploaded models that wait for their check."""

    @property
    def store(self) -> IngestStore[Model]:
        """The models' functions."""
        return models

    def wake(self, broker: Broker) -> None:
        """Wake a worker for the next model."""
        broker.wake_model_workers()

    def run(self, context: Context, row: Model, control: Callable[[], Control]) -> int:
        """Check the model."""
        from worker.ingest.child import check_model

        return check_model(context, row, context.scratch_dir(row.id, row.attempt), control)


DATASETS = DatasetWorkload()
MODELS = ModelWorkload()
