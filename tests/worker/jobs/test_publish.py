"""Publishing a job's artifacts, and the files that a finished job leaves in the store."""

import pytest

from core.reporting import Control, RunResult, SavedCheckpoint
from core.spec import parse_job_spec
from core.spec.info import ModelInfo
from core.store import checkpoints, garbage, lineage, models
from worker.jobs import publish as publish_module
from worker.jobs.publish import publish
from worker.jobs.reporter import JobReporter

SPEC = parse_job_spec(
    {"dataset": "ds_x", "student": {"architecture": "resnet18"}, "method": {"name": "scratch"}, "name": "student"}
)
INFO = ModelInfo(architecture="vit", arguments={}, num_classes=2, channels=1, image_size=8, parameters=1, size_bytes=4)


@pytest.fixture
def job(service):
    return service.claim_job()


@pytest.fixture
def reporter(service, job, tmp_path):
    return JobReporter(service.context, job, tmp_path / "scratch", lambda: Control.GO)


@pytest.fixture
def trained(reporter, tmp_path, monkeypatch):
    """The result of a run that has saved checkpoints of the student and of a teacher."""
    monkeypatch.setattr(publish_module, "read_model_info", lambda _: INFO)
    for track, step in (("teacher-0", 5), ("distill", 10), ("distill", 20), ("distill", 30)):
        folder = tmp_path / f"{track}-{step}"
        folder.mkdir()
        for name in ("model.safetensors", "state.pt"):
            (folder / name).write_bytes(f"{track} {step} {name}".encode())
        reporter.save_checkpoint(SavedCheckpoint(folder, track, step, 1, {}, keep=False))
    artifacts = {}
    for name in ("config.json", "model.safetensors"):
        artifacts[name] = tmp_path / name
        artifacts[name].write_bytes(name.encode())
    return RunResult({"student": {"top1": 0.5}}, artifacts)


def stored(store, job):
    """Return the job's files in the store, without their folders."""
    prefix = f"jobs/{job.id}/a1/"
    keys = sorted(listed.key.removeprefix(prefix) for listed in store.list_prefix() if listed.key.startswith(prefix))
    return [key if key.startswith("artifacts") else key.rpartition("/")[2] for key in keys]


def test_a_job_that_succeeds_leaves_no_training_state(service, store, job, reporter, trained):
    publish(service.context, job, SPEC, trained, reporter)

    assert service.reload(job).status == "succeeded"
    assert stored(store, job) == ["artifacts/config.json", "artifacts/model.safetensors", *["model.safetensors"] * 2]
    listed = service.read(checkpoints.list_checkpoints, service.project, job.id).items
    assert [(each.step, each.resumable) for each in listed] == [(30, False), (20, False)]


def test_compressed_weights_become_models_with_the_student_as_parent(service, store, job, reporter, trained, tmp_path):
    folder = tmp_path / "pruned"
    folder.mkdir()
    files = {f"pruned/{name}": folder / name for name in ("config.json", "model.safetensors")}
    for name, path in files.items():
        path.write_bytes(name.encode())
    steps = [{"artifact": "pruned/model.safetensors"}, {"artifact": "model.int8.onnx"}, {"artifact": None}]
    (tmp_path / "model.int8.onnx").write_bytes(b"onnx")
    artifacts = {**trained.artifacts, **files, "model.int8.onnx": tmp_path / "model.int8.onnx"}

    publish(service.context, job, SPEC, RunResult({**trained.result, "compressed": steps}, artifacts), reporter)

    result = service.reload(job).result
    pruned = result["compressed"][0]["model"]
    assert [entry["model"] for entry in result["compressed"]] == [pruned, None, None]
    model = service.read(models.get, service.project, pruned)
    assert (model.parent_id, model.job_id, model.name) == (result["model"], job.id, "student pruned")
    keys = {file["key"].removeprefix(f"jobs/{job.id}/a1/artifacts/") for file in model.files}
    assert keys == {"pruned/model.safetensors", "pruned/config.json"}
    edges = service.read(lineage.lineage, service.project, pruned).edges
    assert (result["model"], pruned) in {(edge.source, edge.target) for edge in edges}


def test_training_state_that_a_kill_leaves_is_collected_at_once(service, store, job, reporter, trained, monkeypatch):
    monkeypatch.setattr(reporter, "delete_files", lambda _: None)  # killed before the files are deleted
    publish(service.context, job, SPEC, trained, reporter)
    assert stored(store, job).count("state.pt") == 3

    garbage.collect(service.context.database, store, min_age_seconds=3600)

    assert stored(store, job).count("state.pt") == 0
    assert stored(store, job).count("model.safetensors") == 2
