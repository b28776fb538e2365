"""The lineage of models: teachers, jobs, students and compressed models, in both directions."""

import pytest

from core.errors import NotFound
from core.store import jobs, lineage, models
from core.store.lineage import Edge
from core.store.tables import Job, Model
from tests.core.store.test_models import MODEL_INFO


def finish(world, lease, *, compressed=(), name="s"):
    """End a job as its worker does; return the student's id."""

    def write(session):
        spec = session.get(Job, lease.job_id).spec
        parent = lineage.parent_of_student(session, world.project, spec)
        student = models.create_student(session, lease, name=name, info=MODEL_INFO, files=[], parent_id=parent)
        result = {"student": {}, "teachers": [], "compressed": list(compressed), "agreement": None}
        jobs.succeed(session, lease, result=result, artifacts=[], model_id=student.id)
        return student.id

    return world.write(write)


@pytest.fixture
def chain(world):
    """A job trains `first`; a second job, taught by it, trains `second`, with a pruned model and an int8 file."""
    first_lease = world.start_job(spec={"teachers": [{"architecture": "resnet18", "weights": "train"}]})
    first = finish(world, first_lease, name="first")
    teachers = [{"architecture": "vit", "weights": first_lease.job_id}]
    second_lease = world.start_job(spec={"teachers": teachers}, references=[first_lease.job_id])
    pruned_info = MODEL_INFO.model_copy(update={"parameters": 3})

    def prune(session):
        return models.create_student(session, second_lease, name="pruned", info=pruned_info, files=[]).id

    pruned = world.write(prune)
    compressed = [{"artifact": "pruned.safetensors", "model": pruned}, {"artifact": "model.int8.onnx", "top1": 0.5}]
    second = finish(world, second_lease, compressed=compressed, name="second")

    def set_parent(session):
        session.get(Model, pruned).parent_id = second

    world.write(set_parent)
    return {"jobs": (first_lease.job_id, second_lease.job_id), "models": (first, second, pruned)}


def test_every_model_of_a_chain_has_the_complete_lineage(world, chain):
    (first_job, second_job), (first, second, pruned) = chain["jobs"], chain["models"]
    expected = {
        Edge(f"{first_job}/teachers/0", first_job, "teacher"),
        Edge(first_job, first, "student"),
        Edge(first, second_job, "teacher"),
        Edge(second_job, second, "student"),
        Edge(second, pruned, "compressed"),
        Edge(pruned, f"{second_job}/artifacts/model.int8.onnx", "compressed"),
    }

    for model in (first, second, pruned):
        found = world.read(lineage.lineage, world.project, model)
        assert set(found.edges) == expected
        assert found.nodes[0].id == model
        assert not found.is_truncated
        kinds = {node.id: node.kind for node in found.nodes}
        assert kinds[f"{first_job}/teachers/0"] == "teacher"
        assert kinds[f"{second_job}/artifacts/model.int8.onnx"] == "artifact"


def test_the_parent_of_a_student_is_its_first_stored_teacher_or_its_initial_weights(world, chain):
    (first_job, _), (first, second, pruned) = chain["jobs"], chain["models"]
    spec = {"student": {"weights": pruned}, "teachers": [{"weights": first_job}]}

    assert world.read(models.get, world.project, second).parent_id == first
    assert world.read(lineage.parent_of_student, world.project, spec) == pruned
    assert world.read(lineage.parent_of_student, world.project, {"student": {"weights": "random"}}) is None


def test_a_deleted_model_and_job_are_left_as_ids(world, chain):
    (first_job, second_job), (first, second, _) = chain["jobs"], chain["models"]
    world.write(models.delete, world.project, first)

    nodes = {node.id: node for node in world.read(lineage.lineage, world.project, second).nodes}

    assert (nodes[first].exists, nodes[second_job].exists) == (False, True)
    assert first_job not in nodes


def test_a_model_of_another_project_has_no_lineage(world, other_project, chain):
    with pytest.raises(NotFound):
        world.read(lineage.lineage, other_project, chain["models"][0])


def test_a_fork_descends_from_the_job_of_its_checkpoint(world):
    source = world.start_job()
    checkpoint = world.checkpoint(source, 10).checkpoint.id
    finish(world, source, name="source")
    spec = {"student": {"architecture": "vit", "weights": checkpoint}}
    fork = world.start_job(spec=spec, references=[checkpoint])
    student = finish(world, fork, name="forked")

    found = world.read(lineage.lineage, world.project, student)

    assert {
        Edge(source.job_id, checkpoint, "checkpoint"),
        Edge(checkpoint, fork.job_id, "initial_weights"),
        Edge(fork.job_id, student, "student"),
    } <= set(found.edges)
    assert {node.id: node.name for node in found.nodes}[checkpoint] == "step 10"
    assert world.read(models.get, world.project, student).parent_id is None
