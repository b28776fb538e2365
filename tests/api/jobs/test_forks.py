"""Jobs whose student starts from a checkpoint of another job."""

import json

import pytest

from core.store import checkpoints
from tests.api.conftest import VIT


def config(**changes):
    """``config.json`` of a small ViT for the ready dataset, as a training writes it next to the weights."""
    return {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 3,
        "model_args": {**VIT, "num_classes": 3, "in_chans": 3},
        "pretrained_cfg": {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3},
        "potstill": {"format": 1, "parameters": 26_000, "any_size": False},
        **changes,
    }


@pytest.fixture
def fork(tenant, tmp_path):
    """Save a checkpoint of a running job; return its id, its lease and a spec that starts from it."""

    def make(content, **changes):
        lease = tenant.running_job()
        files = {"model.safetensors": b"weights"} | ({} if content is None else {"config.json": content})
        stored = []
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
            stored.append(tenant.server.store.put(f"jobs/{lease.job_id}/a1/checkpoints/c/{name}", tmp_path / name))
        with tenant.database.write() as session:
            saved = checkpoints.save(session, lease, track="distill", step=5, epoch=1, files=stored).checkpoint
        spec = tenant.http.get(f"/v1/jobs/{lease.job_id}").json()["spec"]
        return saved.id, lease, {**spec, "student": {"weights": saved.id, **changes}}

    return make


def test_a_student_starts_from_a_checkpoint_of_a_running_job(tenant, fork):
    checkpoint, lease, spec = fork(json.dumps(config()).encode())

    assert tenant.http.post("/v1/estimates", json=spec).json()["student"]["parameters"] > 20_000
    job = tenant.http.post("/v1/jobs", json=spec)
    assert job.status_code == 201
    student = job.json()["spec"]["student"]
    assert (student["architecture"], student["arguments"]["depth"]) == ("vit_tiny_patch16_224", 2)
    listed = tenant.http.get(f"/v1/jobs/{lease.job_id}/checkpoints").json()["data"]
    assert [(each["id"], each["kept"]) for each in listed] == [(checkpoint, True)]


@pytest.mark.parametrize(
    ("content", "changes", "pointer", "detail"),
    [
        (None, {}, "/student/weights", "earlier version"),
        (config(), {"architecture": "resnet18"}, "/student/architecture", "those of a vit_tiny_patch16_224"),
        (config(), {"weights": "ckpt_01jd3v5n8e6f7g8h9jkmnpqrst"}, "/student/weights", "newest two"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(tenant, fork, content, changes, pointer, detail):
    _, _, spec = fork(None if content is None else json.dumps(content).encode(), **changes)

    problem = tenant.http.post("/v1/jobs", json=spec)

    assert problem.status_code == 422
    (error,) = problem.json()["errors"]
    assert error["pointer"] == pointer
    assert detail in error["detail"]


def test_a_checkpoint_of_another_project_does_not_exist(fork, make_tenant):
    _, _, spec = fork(json.dumps(config()).encode())
    other = make_tenant()

    problem = other.http.post("/v1/jobs", json={**spec, "dataset": other.ready_dataset()})

    assert [error["pointer"] for error in problem.json()["errors"]] == ["/student/weights"]
