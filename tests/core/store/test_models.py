"""Models as their owner sees them."""

import pytest

from core.errors import NotFound
from core.spec.facts import ModelInfo
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
    return world.do(
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
    holding = IngestLeaseToken.of(world.do(models.claim, worker_id="w", lease_seconds=60))
    world.do(models.ready, holding, files=[world.file()], facts=FACTS)

    found = world.ask(models.get, world.project, made.id)

    assert (found.status, found.num_classes, found.image_size, found.parameters) == ("ready", 2, None, 7)
    assert found.arguments == {"depth": 1}  # as it was sent
    assert models.facts(found) == FACTS


def test_a_students_files_stay_its_jobs(world):
    attempt = world.attempt()
    made = world.do(models.create_student, attempt, name="s", facts=FACTS, files=[world.file()])

    assert (made.job_id, made.status, made.normalization) == (attempt.job_id, "ready", {"mean": [0.5], "std": [0.25]})
    assert world.do(models.delete, world.project, made.id) == []


def test_a_stranger_sees_nothing(world, stranger):
    made = upload(world)

    assert world.ask(models.list_models, stranger).items == []
    for project, wanted in ((stranger, made.id), (world.project, "mdl_nothing")):
        with pytest.raises(NotFound):
            world.ask(models.get, project, wanted)
        with pytest.raises(NotFound):
            world.do(models.delete, project, wanted)
    assert [one.id for one in world.ask(models.list_models, world.project).items] == [made.id]
