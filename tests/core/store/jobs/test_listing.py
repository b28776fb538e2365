"""Filters and orders of lists of jobs, on both databases."""

import pytest

from core.errors import InvalidRequest
from core.ids import new_id
from core.store import jobs
from core.store.jobs import JobFilter, JobOrder
from core.store.tables import Job

TEACHERS = [{"architecture": "resnet18.a1_in1k", "weights": "pretrained"}, {"architecture": "cait_s24"}]


def list_ids(world, *args, **options):
    return [job.id for job in world.read(jobs.list_jobs, world.project, *args, **options).items]


def finished_job(world, result, **options):
    """Create a job and finish it with a result."""
    lease = world.start_job(priority=9, **options)
    return world.write(jobs.succeed, lease, result=result, artifacts=[]).id


@pytest.fixture
def found(world):
    """List the names of the jobs that pass a filter, of five that differ."""
    other = world.ready_dataset()
    changes = {
        "plain": {
            "spec": {"method": {"name": "scratch"}, "student": {"architecture": "vit_tiny", "weights": "random"}}
        },
        "kd run": {"spec": {"method": {"name": "kd"}, "teachers": TEACHERS}, "metadata": {"team": "search", "n": "1"}},
        "Kd 100%": {"spec": {"method": {"name": "kd"}}, "metadata": {"team": "ads"}},
        "elsewhere": {"dataset": other, "spec": {"student": {"architecture": "vit.augreg", "weights": "random"}}},
        "cancelled": {},
    }
    ids = {name: world.job(name=name, **options) for name, options in changes.items()}
    world.write(jobs.cancel, world.project, ids["cancelled"])

    def names(**filters):
        page = world.read(jobs.list_jobs, world.project, JobFilter(**filters))
        return [job.name for job in page.items]

    names.other, names.ids = other, ids
    return names


def test_each_filter_keeps_the_jobs_that_match(found):
    assert found(statuses=["cancelled"]) == ["cancelled"]
    assert found(statuses=["cancelled", "failed"]) == ["cancelled"]
    assert found(methods=["kd"]) == ["Kd 100%", "kd run"]
    assert found(methods=["kd", "scratch"])[-1] == "plain"
    assert found(dataset_id=found.other) == ["elsewhere"]
    assert found(student="vit_tiny") == ["plain"]
    assert found(student="vit") == ["cancelled", "elsewhere", "Kd 100%", "kd run"]  # with any tag
    assert found(teacher="resnet18") == ["kd run"]
    assert found(teacher="cait_s24") == ["kd run"]
    assert found(teacher="resnet1") == []
    assert found(metadata={"team": "search", "n": "1"}) == ["kd run"]
    assert found(metadata={"team": "search", "n": "2"}) == []
    assert found(methods=["kd"], metadata={"team": "ads"}) == ["Kd 100%"]


def test_a_search_finds_words_in_names_ids_and_models(found):
    # Random ids may contain "kd", but no letter u and no %.
    assert found(search="KD RUN") == ["kd run"]
    assert found(search="kD 100%") == ["Kd 100%"]
    assert found(search="run resnet18") == ["kd run"]
    assert found(search="100%") == ["Kd 100%"]
    assert found(search="10_%") == []
    assert found(search=found.ids["plain"].upper()) == ["plain"]


def test_times_are_a_half_open_range(world):
    first, second = world.get(world.job()), world.get(world.job())

    assert list_ids(world, JobFilter(created_after=second.created_at)) == [second.id]
    assert list_ids(world, JobFilter(created_before=second.created_at)) == [first.id]


@pytest.mark.parametrize(
    ("key", "descending", "expected"),
    [
        ("top1", True, [0.9, 0.5, 0.5, 0.1]),
        ("gain", False, [0.1, 0.5, 0.5, 0.9]),
        ("size_bytes", True, [0.1, 0.5, 0.5, 0.9]),
    ],
)
def test_pages_by_a_figure_list_each_job_once_and_unfinished_ones_last(world, key, descending, expected):
    values = {world.job(): None}
    for top1 in (0.5, 0.9, 0.5, 0.1):
        result = {"student": {"top1": top1, "size_bytes": 10 - 10 * top1}, "baseline": {"gain": top1}}
        values[finished_job(world, result)] = top1
    values[world.job()] = None
    seen, after = [], None
    while True:
        page = world.read(jobs.list_jobs, world.project, order=JobOrder(key, descending), limit=2, after=after)
        seen += [job.id for job in page.items]
        if not page.has_more:
            break
        after = seen[-1]

    assert [values[job_id] for job_id in seen] == [*expected, None, None]
    assert len(set(seen)) == len(values)


def test_oldest_first_and_names(world):
    ids = [world.job(name=name) for name in ("b", "a", "c")]

    assert list_ids(world, order=JobOrder("created_at", descending=False)) == ids
    assert list_ids(world, order=JobOrder("name", descending=False)) == [ids[1], ids[0], ids[2]]
    assert list_ids(world, order=JobOrder("seconds")) == ids[::-1]  # none has ended


def test_a_page_by_a_figure_cannot_continue_after_a_deleted_job(world):
    with pytest.raises(InvalidRequest, match="was deleted"):
        list_ids(world, order=JobOrder("top1"), after=new_id("job"))
    with pytest.raises(InvalidRequest, match="must be the id"):
        list_ids(world, order=JobOrder("top1"), after="job_x")


def test_the_database_computes_the_columns(world):
    finished_job(world, {"student": {"top1": 0.5}}, spec={"method": {"name": "kd"}})

    (job,) = world.read(jobs.list_jobs, world.project, JobFilter(methods=["kd"])).items
    with world.db.read() as session:
        loaded = session.get(Job, job.id)
        assert (loaded.method, loaded.student, loaded.teachers, loaded.top1) == ("kd", "vit", "|", 0.5)
        assert 0 <= loaded.seconds < 60
