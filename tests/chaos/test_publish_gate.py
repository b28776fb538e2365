"""`succeeded` means: the file that is handed out loads, and is as good as the service says."""

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
from tests.chaos.logs import assert_no_gap
from worker.stored_files import publish_file


def download(lab, job, folder):
    for name in lab.artifacts(job):
        (folder / name).write_bytes(lab.http.get(f"/v1/jobs/{job}/artifacts/{name}").content)
    return folder


def top1(lab, folder):
    """The accuracy of a downloaded folder on the test split, by timm alone."""
    student = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = student.pretrained_cfg
    with lab.database.read() as session:
        files = datasets.get(session, lab.project, lab.dataset).files
    stored = lab.store.local_path(files[0]["key"]).parent
    with StoredDataset.open(stored) as opened:
        test = load_pixels(opened, "test", config["input_size"][-1], folder / "cache")
    mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        pictures = torch.from_numpy(test.images[:].copy()).float() / 255
        right = student((pictures - mean) / std).argmax(dim=1) == test.labels
    return right.float().mean().item()


def test_a_student_that_survived_kills_and_errors_is_as_good_as_reported(lab, tmp_path):
    job = lab.submit(epochs=6, seed=3)
    lab.live("checkpoint.named", nth=2)
    lab.live("student.exported")
    lab.live("artifact.published", "ENOSPC", nth=2)
    assert lab.see(job)["status"] == "failed"
    lab.http.post(f"/v1/jobs/{job}/retry")
    lab.live("success.uncommitted")
    lab.assert_nothing_half(job)
    done = lab.finish(job)

    assert done["status"] == "succeeded", done["error"]
    assert_no_gap(lab.events(job))
    reported = done["result"]["student"]["top1"]
    assert reported > 0.3
    assert abs(top1(lab, download(lab, job, tmp_path)) - reported) < 1e-9 + 2**-24


def test_a_published_file_that_is_not_what_was_written_is_never_named():
    """The store is read back before anything is named: a lying disk fails the job."""

    class Lying:
        """A store that keeps something else than it was given."""

        def put(self, key, source):
            return StoredFile(key, 1, "0" * 64)

        def measure(self, key):
            return StoredFile(key, 1, "f" * 64)

    with pytest.raises(StorageFailed, match="not what was written"):
        publish_file(Lying(), "jobs/job_1/a1/artifacts/model.safetensors", None)


def test_the_collector_leaves_nothing_of_what_was_published_in_vain(lab):
    job = lab.submit()
    lab.live("artifacts.published")
    lab.finish(job)
    named = set(_named(lab))
    garbage.collect(lab.database, lab.store, min_age_seconds=-1)

    assert {listed.key for listed in lab.store.list_prefix()} == named
    lab.assert_nothing_half(job)


def _named(lab):
    with lab.database.read() as session:
        yield from session.scalars(select(Artifact.key))
        for table in (Checkpoint, Dataset, Model, Teacher):
            for files in session.scalars(select(table.files)):
                yield from (file["key"] for file in files)
