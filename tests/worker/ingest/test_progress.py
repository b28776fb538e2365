"""The progress of an ingestion reaches the row of its dataset, and does not decide how it ends."""

import json
from types import SimpleNamespace

import pytest

from core.errors import Unavailable
from core.store import datasets
from core.store.ingest_leases import IngestLeaseToken
from core.store.job_leases import LeaseLost
from tests.support.archives import make_color_dataset
from worker.claim_loop import run_next
from worker.ingest import progress, sandboxed
from worker.ingest.parent import DATASETS


@pytest.fixture
def upload(service, store, tmp_path):
    """Upload a dataset of 240 images, which then waits for its ingest."""
    (tmp_path / "upload").write_bytes(make_color_dataset(60))
    key = store.put("uploads/x/file", tmp_path / "upload").key
    source = {"type": "file", "filename": "a.zip"}
    return service.write(datasets.create, service.project, name="uploaded", source=source, upload_key=key)


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Return a function that lists what was written, also by the forked process of an ingest."""
    log = tmp_path / "progress"
    log.touch()
    record = datasets.record_progress

    def record_and_log(session, lease, **values):
        with log.open("a") as file:
            file.write(json.dumps(values) + "\n")
        return record(session, lease, **values)

    monkeypatch.setattr(datasets, "record_progress", record_and_log)
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def frequent(monkeypatch):
    monkeypatch.setattr(progress, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(sandboxed, "POLL_SECONDS", 0.001)


def reload(service, dataset):
    return service.read(datasets.get, service.project, dataset.id)


@pytest.fixture
def writer(service, upload):
    """The writer of a claimed dataset."""
    row = service.write(datasets.claim, worker_id="wrk_test", lease_seconds=60.0)
    return progress.ProgressWriter(service.context, IngestLeaseToken.from_row(row))


def test_it_is_written_while_an_archive_is_read(service, upload, written, frequent):
    run_next(DATASETS)

    assert {values["total"] for values in written()} == {240}
    counts = [values["processed"] for values in written()]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= 240
    assert (reload(service, upload).status, reload(service, upload).progress) == ("ready", None)


def test_it_is_written_once_a_second_with_the_rate_since_the_first(service, upload, writer, written, monkeypatch):
    times = iter([100.0, 100.5, 101.0, 103.0])
    monkeypatch.setattr(
        progress, "time", SimpleNamespace(monotonic=lambda: next(times))
    )  # other threads have the clock
    for count in (10, 20, 30, 70):
        writer(count, None)

    assert [(values["processed"], values["images_per_second"]) for values in written()] == [
        (10, None),
        (30, 20.0),
        (70, 20.0),
    ]
    assert reload(service, upload).progress == {"processed": 70, "total": None, "images_per_second": 20.0}


def test_an_ingest_continues_while_the_database_is_down(service, upload, monkeypatch, frequent):
    def unavailable(*_, **__):
        raise Unavailable("the database is down")

    monkeypatch.setattr(datasets, "record_progress", unavailable)
    run_next(DATASETS)

    assert reload(service, upload).status == "ready"


def test_a_deleted_dataset_ends_its_ingest(service, upload, writer):
    service.write(datasets.delete, service.project, upload.id)

    with pytest.raises(LeaseLost):
        writer(1, None)


def test_it_is_removed_when_the_dataset_is_released_or_fails(service, upload, writer):
    writer(5, 9)
    released = service.write(datasets.release, writer._lease)
    assert released.progress is None

    row = service.write(datasets.claim, worker_id="wrk_test", lease_seconds=60.0)
    lease = IngestLeaseToken.from_row(row)
    progress.ProgressWriter(service.context, lease)(5, 9)
    assert service.write(datasets.fail, lease, {"code": "x", "message": "y"}).progress is None
