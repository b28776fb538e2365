"""Names and id prefixes: which object a text refers to."""

import pytest

from core.errors import AmbiguousReference, NotFound
from core.ids import new_id
from core.store import datasets, jobs, models, names
from core.store.models import ModelInfo

INFO = ModelInfo(architecture="vit", arguments={}, num_classes=2, channels=1, image_size=8, parameters=1, size_bytes=4)


@pytest.fixture
def add(world):
    """Add a dataset with this name; return its id."""

    def add(name, *, project=None, dataset_id=None):
        source = {"type": "builtin", "name": "digits"}
        return world.write(
            datasets.create, project or world.project, name=name, source=source, dataset_id=dataset_id
        ).id

    return add


@pytest.fixture
def find(world):
    return lambda text, kind="dataset", project=None: world.read(names.find_id, project or world.project, kind, text)


@pytest.fixture
def find_weights(world):
    return lambda text: world.read(names.find_weights, world.project, text)


def dataset_id(characters):
    return "ds_" + characters.ljust(26, "0")


def upload_model(world, name):
    return world.write(
        models.create, world.project, name=name, architecture="vit", arguments={}, upload_key="uploads/m/file"
    ).id


def succeed(world, name):
    """Run a job of this name to its end; return the ids of the job and of its student."""
    lease = world.start_job(name=name)

    def finish(session):
        model = models.create_student(session, lease, name=name, info=INFO, files=[])
        jobs.succeed(session, lease, result={}, artifacts=[], model_id=model.id)
        return model.id

    return lease.job_id, world.write(finish)


@pytest.mark.parametrize("name", ["pets", "my pets/2024", "100%", "é 猫", "job_3", "ds_old"])
def test_a_unique_name_is_found(add, find, name):
    expected = add(name)

    assert find(name) == expected


def test_the_form_of_an_id_needs_no_object(find):
    unknown = new_id("ds")

    assert find(unknown) == unknown


def test_a_unique_prefix_is_found_and_a_short_one_is_not(add, find):
    first = add("a", dataset_id=dataset_id("zzza"))
    add("b", dataset_id=dataset_id("zzyb"))

    assert find("ds_zzz") == first
    assert find(first[:-1]) == first
    with pytest.raises(NotFound, match="at least 3 characters after its type"):
        find("ds_zz")
    for text in ("DS_ZZZ", "ds_zzz%", "ds_zz_", "job_zzz", "zzz", ""):
        with pytest.raises(NotFound):
            find(text)


def test_a_name_wins_over_a_prefix(add, find):
    add("a", dataset_id=dataset_id("zzza"))
    named = add("ds_zzz")

    assert find("ds_zzz") == named


def test_an_ambiguous_name_or_prefix_lists_the_candidates(add, find):
    ids = {add("twice", dataset_id=dataset_id(f"zzz{k}")) for k in range(2)}
    for text in ("twice", "ds_zzz"):
        with pytest.raises(AmbiguousReference) as caught:
            find(text)

        candidates = caught.value.extra["candidates"]
        assert {candidate["id"] for candidate in candidates} == ids
        assert all(candidate["name"] == "twice" and candidate["object"] == "dataset" for candidate in candidates)
        assert all(each in caught.value.detail for each in ids)


def test_many_candidates_are_limited(add, find):
    ids = [add("same") for _ in range(12)]
    with pytest.raises(AmbiguousReference, match="more than 10 datasets") as caught:
        find("same")

    assert [candidate["id"] for candidate in caught.value.extra["candidates"]] == ids[:1:-1]


def test_an_unknown_name_is_answered_with_the_nearest(add, find):
    add("digits")
    with pytest.raises(NotFound, match="Did you mean digits"):
        find("digit")


def test_deleted_objects_and_other_projects_never_match(world, add, find, other_project):
    add("pets", project=other_project)
    with pytest.raises(NotFound) as caught:
        find("pets")
    assert "Did you mean" not in caught.value.detail

    gone = add("pets")
    kept = add("pets")
    world.write(datasets.delete, world.project, gone)
    assert find("pets") == kept


def test_jobs_without_a_name_do_not_disturb(world, find):
    world.job()
    named = world.job(name="deit")

    assert find("deit", "job") == named
    with pytest.raises(NotFound, match="Did you mean deit"):
        find("diet", "job")


def test_weights_may_be_a_keyword_an_id_a_model_or_a_job(world, find_weights):
    uploaded = upload_model(world, "resnet")
    running = world.job(name="unfinished")
    job, student = succeed(world, "deit")

    assert find_weights("pretrained") == "pretrained"
    assert find_weights(job) == job
    assert find_weights("resnet") == uploaded
    assert find_weights("unfinished") == running
    assert find_weights("deit") == student, "a student has the name of its job, so its name is unique"
    assert find_weights(student[:-1]) == student
    with pytest.raises(NotFound, match="Did you mean pretrained"):
        find_weights("pretraned")


def test_an_upload_with_the_name_of_a_student_is_ambiguous(world, find_weights):
    _, student = succeed(world, "deit")
    uploaded = upload_model(world, "deit")

    with pytest.raises(AmbiguousReference) as caught:
        find_weights("deit")
    assert {candidate["id"] for candidate in caught.value.extra["candidates"]} == {student, uploaded}


def test_any_object_is_found_by_its_name(world, add):
    dataset, job = add("pets"), world.job(name="deit")

    def find_any(text):
        return world.read(names.find_any_id, world.project, text)

    assert (find_any("pets"), find_any("deit"), find_any(job[:-1]), find_any("x")) == (dataset, job, job, None)
