"""Models of a project."""

import pytest

from core.errors import NotFound
from core.spec.info import ModelInfo
from core.store import models
from core.store.ingest_leases import IngestLeaseToken

MODEL_INFO = ModelInfo(
    architecture="vit",
    arguments={"depth": 1, "num_classes": 2},
    num_classes=2,
    channels=1,
    image_size=None,
    parameters=7,
    size_bytes=28,
    classes=("a", "b"),
    normalization={"mean": [0.5], "std": [0.25]},
)


def upload(world):
    return world.write(
        models.create,
        world.project,
        name="m",
        architecture="vit",
        arguments={"depth": 1},
        normalization={"mean": [0.5], "std": [0.25]},
        classes=["a", "b"],
        upload_key="uploads/m",
    )


def test_ready_model_has_its_info(world):
    uploaded = upload(world)
    lease = IngestLeaseToken.from_row(world.write(models.claim, worker_id="w", lease_seconds=60))
    world.write(models.mark_ready, lease, files=[world.file()], info=MODEL_INFO)

    model = world.read(models.get, world.project, uploaded.id)

    assert (model.status, model.num_classes, model.image_size, model.parameters) == ("ready", 2, None, 7)
    assert model.arguments == {"depth": 1}  # as uploaded
    assert models.model_info(model) == MODEL_INFO


def test_deleting_a_student_keeps_files_of_its_job(world):
    lease = world.start_job()
    student = world.write(models.create_student, lease, name="s", info=MODEL_INFO, files=[world.file()])

    assert (student.job_id, student.status, student.normalization) == (
        lease.job_id,
        "ready",
        {"mean": [0.5], "std": [0.25]},
    )
    assert world.write(models.delete, world.project, student.id) == []


def test_models_of_another_project_are_hidden(world, other_project):
    uploaded = upload(world)

    assert world.read(models.list_models, other_project).items == []
    for project, model_id in ((other_project, uploaded.id), (world.project, "mdl_nothing")):
        with pytest.raises(NotFound):
            world.read(models.get, project, model_id)
        with pytest.raises(NotFound):
            world.write(models.delete, project, model_id)
    assert [model.id for model in world.read(models.list_models, world.project).items] == [uploaded.id]
