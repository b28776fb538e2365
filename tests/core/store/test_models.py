"""Models as their owner sees them."""

import pytest

from core.errors import NotFound
from core.spec.info import ModelInfo
from core.store import models
from core.store.ingest_leases import IngestLeaseToken

FACTS = ModelInfo(
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


def test_a_checked_model_knows_its_facts(world):
    made = upload(world)
    lease = IngestLeaseToken.from_row(world.write(models.claim, worker_id="w", lease_seconds=60))
    world.write(models.mark_ready, lease, files=[world.file()], info=FACTS)

    found = world.read(models.get, world.project, made.id)

    assert (found.status, found.num_classes, found.image_size, found.parameters) == ("ready", 2, None, 7)
    assert found.arguments == {"depth": 1}  # as it was sent
    assert models.model_info(found) == FACTS


def test_a_students_files_stay_its_jobs(world):
    lease = world.start_job()
    made = world.write(models.create_student, lease, name="s", info=FACTS, files=[world.file()])

    assert (made.job_id, made.status, made.normalization) == (lease.job_id, "ready", {"mean": [0.5], "std": [0.25]})
    assert world.write(models.delete, world.project, made.id) == []


def test_a_stranger_sees_nothing(world, other_project):
    made = upload(world)

    assert world.read(models.list_models, other_project).items == []
    for project, wanted in ((other_project, made.id), (world.project, "mdl_nothing")):
        with pytest.raises(NotFound):
            world.read(models.get, project, wanted)
        with pytest.raises(NotFound):
            world.write(models.delete, project, wanted)
    assert [one.id for one in world.read(models.list_models, world.project).items] == [made.id]
