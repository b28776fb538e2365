"""What a project stores, after any lives of its jobs: the number that is kept is what the rows add up to."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from core.store import checkpoints, datasets, jobs, models, quotas
from core.store.artifact_store import StoredFile
from core.store.jobs import LeaseToken, NewArtifact, Revision
from core.store.project_tables import ProjectUsage
from core.store.tables import Artifact, Checkpoint, Dataset, Model
from tests.core.store.test_quotas import FACTS

TRACKS = ("distill", "distill", "teacher-0")
WORDS = (
    *("claim",) * 3,
    *("save",) * 8,
    *("discard", "succeed", "fail", "lose", "retry", "begin_anew", "create", "delete", "delete_student"),
)
EXAMPLES = {"sqlite": 40, "postgresql": 10}


class Lives:
    """Does one word after the other to the jobs of a world, wherever it can be done."""

    def __init__(self, world):
        self.world = world
        self.serial = 0
        self.create(0)

    def jobs(self, *statuses):
        listed = self.world.read(jobs.list_jobs, self.world.project, status=statuses or None, limit=100).items
        return sorted(listed, key=lambda job: job.id)

    def some(self, number, *statuses):
        found = self.jobs(*statuses)
        return found[number % len(found)] if found else None

    def create(self, number):
        if len(self.jobs()) < 3:
            self.world.job(priority=number % 3)

    def claim(self, number):
        self.world.claim()

    def save(self, number):
        job = self.some(number, "running")
        if job is None:
            return
        self.serial += 1
        track, folder = TRACKS[number % 3], f"jobs/{job.id}/a{job.attempt}/checkpoints/c{self.serial}"
        files = [
            StoredFile(f"{folder}/model.safetensors", 1 + number % 50, "0" * 64),
            StoredFile(f"{folder}/state.pt", 1 + number % 1000, "0" * 64),
        ]
        step = job.checkpoint_step + number % 2  # the same again, or further
        more = {"step": step, "epoch": 0, "files": files, "keep": number % 5 == 0}
        self.world.write(checkpoints.save, LeaseToken.from_job(job), track=track, **more)

    def discard(self, number):
        job = self.some(number, "running")
        newest = job and self.world.read(checkpoints.list_resumable, LeaseToken.from_job(job))
        if newest:
            self.world.write(checkpoints.discard, LeaseToken.from_job(job), newest[number % len(newest)].id)

    def succeed(self, number):
        job = self.some(number, "running")
        if job is None:
            return
        keys = [f"jobs/{job.id}/a{job.attempt}/artifacts/{name}" for name in ("model.safetensors", "config.json")]
        files = [StoredFile(key, size, "0" * 64) for key, size in zip(keys, (40, number), strict=True)]

        def end(session):
            student = models.create_student(session, LeaseToken.from_job(job), name="s", info=FACTS, files=files)
            new = [NewArtifact(file.name, "application/octet-stream", file) for file in files]
            jobs.succeed(session, LeaseToken.from_job(job), result={}, artifacts=new, model_id=student.id)

        self.world.write(end)

    def fail(self, number):
        if job := self.some(number, "running"):
            self.world.write(jobs.fail, LeaseToken.from_job(job), {"code": "x", "message": "x"})

    def lose(self, number):
        self.world.expire_leases()

    def retry(self, number):
        if job := self.some(number, "failed"):
            self.world.write(jobs.retry, self.world.project, job.id)

    def begin_anew(self, number):
        job = self.some(number, "failed")
        if job is None:
            return
        spec = {**job.spec, "name": "again", "priority": 0, "metadata": {}, "resources": {"accelerator": "cpu"}}
        changed = {"spec": spec, "resolved": True, "total_steps": 10, "changes": ["x"], "of_seq": job.last_seq}
        revision = Revision(**changed, tracks=("distill", "teacher-0"))
        self.world.write(jobs.retry_revised, self.world.project, job.id, revision)

    def delete(self, number):
        if job := self.some(number, "succeeded", "failed"):
            self.world.write(jobs.delete, self.world.project, job.id)

    def delete_student(self, number):
        listed = self.world.read(models.list_models, self.world.project).items
        if listed:
            self.world.write(models.delete, self.world.project, listed[number % len(listed)].id)


def named(world):
    """The sizes of all files that rows name, each once, and of what is known by its size alone."""
    with world.db.read() as session:
        files = {file["key"]: file["size_bytes"] for one in session.query(Checkpoint) for file in one.files}
        files |= {one.key: one.size_bytes for one in session.query(Artifact)}
        students = [one for one in session.query(Model) if one.files[0]["key"] not in files]
        return sum(files.values()) + sum(one.size_bytes or 0 for one in [*session.query(Dataset), *students])


def test_whatever_becomes_of_jobs_the_number_is_what_there_is(world):
    """Also with checkpoints of all kinds: replaced, kept, damaged, retired, dropped with their track or their job."""

    @settings(
        max_examples=EXAMPLES[world.db.engine.dialect.name],
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 10_000)), min_size=25, max_size=40))
    def live(steps):
        lives = Lives(world)
        for word, number in steps:
            getattr(lives, word)(number)
            kept = world.read(quotas.get_stored_bytes, world.project)

            assert kept == world.read(quotas.sum_stored_bytes, world.project) == named(world), word
        for job in lives.jobs("running", "queued", "paused"):
            world.write(jobs.cancel, world.project, job.id)
        world.write(jobs.expire_leases, 3, worker_id="w")
        for job in lives.jobs():
            world.write(jobs.delete, world.project, job.id)
        while world.read(models.list_models, world.project).items:
            lives.delete_student(0)
        assert world.read(quotas.get_stored_bytes, world.project) == 10, "the dataset is left"

    live()


@pytest.mark.parametrize("keep", [False, True])
def test_a_checkpoint_counts_with_all_its_files_until_it_is_replaced(world, keep):
    before = world.read(quotas.get_stored_bytes, world.project)
    lease = world.start_job()
    for step, more in ((10, 20), (20, 40), (30, 40 + 10 * keep), (40, 40 + 20 * keep)):
        world.checkpoint(lease, step, retain=keep)
        assert world.read(quotas.get_stored_bytes, world.project) == before + more

    world.write(jobs.succeed, lease, result={}, artifacts=[])
    assert world.read(quotas.get_stored_bytes, world.project) == before + (40 if keep else 20), "weights alone are left"
    world.write(jobs.delete, world.project, lease.job_id)
    assert world.read(quotas.get_stored_bytes, world.project) == before


def test_a_checkpoint_that_replaces_one_of_its_size_does_not_wait_for_the_number(world):
    lease = world.start_job()
    for step in (10, 20):
        world.checkpoint(lease, step)
    with world.db.read() as session:
        before = session.get(ProjectUsage, world.project).stored_bytes
    saved = []
    if world.db.engine.dialect.name == "postgresql":  # SQLite has one writer anyway
        with world.db.write() as session:
            session.query(ProjectUsage).filter_by(project_id=world.project).with_for_update().one()
            saved.append(world.checkpoint(lease, 30))
    saved.append(world.checkpoint(lease, 40))

    assert all(len(one.garbage_keys) == 2 for one in saved)
    assert world.read(quotas.get_stored_bytes, world.project) == before


def at_once(*works):
    """Each eight times, in a thread of its own; raises what any of them raised."""
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(lambda work=work: [work(number) for number in range(8)]) for work in works]:
            done.result()


def test_everybody_who_changes_the_number_at_once_gets_there(world):
    """Checkpoints, successes, deletions, uploads and the count itself take their locks in one order: no deadlock."""

    def saves(lease, number):
        files = [StoredFile(f"jobs/{lease.job_id}/c{number}/model.safetensors", 10 + 7 * number, "0" * 64)]
        world.write(checkpoints.save, lease, track="distill", step=number, epoch=0, files=files)

    def comes_and_goes(_number):
        sent = world.write(datasets.create, world.project, name="u", source={}, upload_key="uploads/x", size_bytes=500)
        world.write(datasets.delete, world.project, sent.id)

    def ends(number):
        lease = ending[number]
        artifact = NewArtifact("r", "text/plain", StoredFile(f"jobs/{lease.job_id}/a1/artifacts/r", 5, "0" * 64))
        world.write(jobs.succeed, lease, result={}, artifacts=[artifact])
        world.write(jobs.delete, world.project, lease.job_id)

    saving, ending = [world.start_job() for _ in range(2)], [world.start_job() for _ in range(8)]
    for lease in ending:
        world.checkpoint(lease, 10)
    at_once(
        *(partial(saves, lease) for lease in saving),
        comes_and_goes,
        ends,
        lambda _number: world.write(quotas.recount, world.project),
    )

    assert world.read(quotas.get_stored_bytes, world.project) == world.read(quotas.sum_stored_bytes, world.project)
