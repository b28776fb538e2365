"""`succeeded` means that the published student loads and has the reported accuracy."""

import pytest
import timm
import torch
from sqlalchemy import select

from core.data.pixels import load_pixels
from core.data.stored import StoredDataset
from core.errors import StorageFailed
from core.store import datasets, garbage
from core.store.artifact_store import StoredFile
from core.store.tables import Artifact, Checkpoint, Dataset, Model, Teacher
from tests.chaos.logs import assert_gapless
from worker.stored_files import publish_file


def download(service, job_id, folder):
    for name in service.verified_artifacts(job_id):
        (folder / name).write_bytes(service.http.get(f"/v1/jobs/{job_id}/artifacts/{name}").content)
    return folder


def top1(service, folder):
    """Accuracy of a downloaded student on the test split, computed with timm only."""
    student = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = student.pretrained_cfg
    with service.database.read() as session:
        files = datasets.get(session, service.project, service.dataset).files
    stored = service.store.local_path(files[0]["key"]).parent
    with StoredDataset.open(stored) as opened:
        test = load_pixels(opened, "test", config["input_size"][-1], folder / "cache")
    mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        images = torch.from_numpy(test.images[:].copy()).float() / 255
        correct = student((images - mean) / std).argmax(dim=1) == test.labels
    return correct.float().mean().item()


def test_a_student_that_survives_kills_and_errors_has_the_reported_accuracy(service, tmp_path):
    job_id = service.submit(epochs=6, seed=3)
    service.run_worker("checkpoint.named", nth=2)
    service.run_worker("student.exported")
    service.run_worker("artifact.published", "ENOSPC", nth=2)
    assert service.job(job_id)["status"] == "failed"
    service.http.post(f"/v1/jobs/{job_id}/retry")
    service.run_worker("success.uncommitted")
    service.assert_nothing_partial(job_id)
    job = service.finish(job_id)

    assert job["status"] == "succeeded", job["error"]
    assert_gapless(service.events(job_id))
    reported = job["result"]["student"]["top1"]
    assert reported > 0.3
    assert abs(top1(service, download(service, job_id, tmp_path)) - reported) < 1e-9 + 2**-24


def test_a_stored_file_that_differs_from_the_written_one_is_never_published():
    """The store is read back before a row references the file."""

    class CorruptingStore:
        """A store that saves other bytes than it receives."""

        def put(self, key, source):
            return StoredFile(key, 1, "0" * 64)

        def measure(self, key):
            return StoredFile(key, 1, "f" * 64)

    with pytest.raises(StorageFailed, match="differs from the written file"):
        publish_file(CorruptingStore(), "jobs/job_1/a1/artifacts/model.safetensors", None)


def test_garbage_collection_deletes_published_files_without_a_row(service):
    job_id = service.submit()
    service.run_worker("artifacts.published")
    service.finish(job_id)
    referenced = set(_referenced_keys(service))
    garbage.collect(service.database, service.store, min_age_seconds=-1)

    assert {listed.key for listed in service.store.list_prefix()} == referenced
    service.assert_nothing_partial(job_id)


def _referenced_keys(service):
    with service.database.read() as session:
        yield from session.scalars(select(Artifact.key))
        for table in (Checkpoint, Dataset, Model, Teacher):
            for files in session.scalars(select(table.files)):
                yield from (file["key"] for file in files)
