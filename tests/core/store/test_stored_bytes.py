"""Stored bytes of a project: the counter matches the rows after any history of jobs."""

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
from tests.core.store.test_quotas import MODEL_INFO

TRACKS = ("distill", "distill", "teacher-0")
STEPS = (
    *("claim",) * 3,
    *("save",) * 8,
    *("discard", "succeed", "fail", "lose", "retry", "restart", "create", "delete", "delete_student"),
)
EXAMPLES = {"sqlite": 12, "postgresql": 5}


class JobHistory:
    """Applies steps to the jobs of a project; a step without a suitable job does nothing."""

    def __init__(self, world):
        self.world = world
        self.serial = 0
        self.create(0)

    def jobs(self, *statuses):
        page = self.world.read(jobs.list_jobs, self.world.project, jobs.JobFilter(statuses=statuses), limit=100).items
        return sorted(page, key=lambda job: job.id)

    def select(self, number, *statuses):
        candidates = self.jobs(*statuses)
        return candidates[number % len(candidates)] if candidates else None

    def create(self, number):
        if len(self.jobs()) < 3:
            self.world.job(priority=number % 3)

    def claim(self, number):
        self.world.claim()

    def save(self, number):
        job = self.select(number, "running")
        if job is None:
            return
        self.serial += 1
        track, folder = TRACKS[number % 3], f"jobs/{job.id}/a{job.attempt}/checkpoints/c{self.serial}"
        files = [
            StoredFile(f"{folder}/model.safetensors", 1 + number % 50, "0" * 64),
            StoredFile(f"{folder}/state.pt", 1 + number % 1000, "0" * 64),
        ]
        step = job.checkpoint_step + number % 2  # the same step again, or the next
        fields = {"step": step, "epoch": 0, "files": files, "retain": number % 5 == 0}
        self.world.write(checkpoints.save, LeaseToken.from_job(job), track=track, **fields)

    def discard(self, number):
        job = self.select(number, "running")
        newest = job and self.world.read(checkpoints.list_resumable, LeaseToken.from_job(job))
        if newest:
            self.world.write(checkpoints.discard, LeaseToken.from_job(job), newest[number % len(newest)].id)

    def succeed(self, number):
        job = self.select(number, "running")
        if job is None:
            return
        keys = [f"jobs/{job.id}/a{job.attempt}/artifacts/{name}" for name in ("model.safetensors", "config.json")]
        files = [StoredFile(key, size, "0" * 64) for key, size in zip(keys, (40, number), strict=True)]

        def end(session):
            student = models.create_student(session, LeaseToken.from_job(job), name="s", info=MODEL_INFO, files=files)
            new = [NewArtifact(file.name, "application/octet-stream", file) for file in files]
            jobs.succeed(session, LeaseToken.from_job(job), result={}, artifacts=new, model_id=student.id)

        self.world.write(end)

    def fail(self, number):
        if job := self.select(number, "running"):
            self.world.write(jobs.fail, LeaseToken.from_job(job), {"code": "x", "message": "x"})

    def lose(self, number):
        self.world.expire_leases()

    def retry(self, number):
        if job := self.select(number, "failed"):
            self.world.write(jobs.retry, self.world.project, job.id)

    def restart(self, number):
        job = self.select(number, "failed")
        if job is None:
            return
        spec = {**job.spec, "name": "changed", "priority": 0, "metadata": {}, "resources": {"accelerator": "cpu"}}
        changed = {"spec": spec, "resolved": True, "total_steps": 10, "changes": ["x"], "base_seq": job.last_seq}
        revision = Revision(**changed, warnings=[], tracks=("distill", "teacher-0"))
        self.world.write(jobs.retry_revised, self.world.project, job.id, revision)

    def delete(self, number):
        if job := self.select(number, "succeeded", "failed"):
            self.world.write(jobs.delete, self.world.project, job.id)

    def delete_student(self, number):
        listed = self.world.read(models.list_models, self.world.project).items
        if listed:
            self.world.write(models.delete, self.world.project, listed[number % len(listed)].id)


def sum_referenced_bytes(world):
    """Sum the sizes of all referenced files, each once, and of rows that have only a size."""
    with world.db.read() as session:
        files = {file["key"]: file["size_bytes"] for row in session.query(Checkpoint) for file in row.files}
        files |= {row.key: row.size_bytes for row in session.query(Artifact)}
        students = [row for row in session.query(Model) if row.files[0]["key"] not in files]
        return sum(files.values()) + sum(row.size_bytes or 0 for row in [*session.query(Dataset), *students])


@pytest.mark.parametrize("rounds", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_counter_matches_rows_after_random_job_histories(world, rounds):
    """Checkpoints are replaced, retained, damaged, pruned, and deleted with their track or their job."""

    @settings(
        max_examples=rounds * EXAMPLES[world.db.engine.dialect.name],
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 10_000)), min_size=25, max_size=40))
    def check(steps):
        history = JobHistory(world)
        for name, number in steps:
            getattr(history, name)(number)
            counter = world.read(quotas.get_stored_bytes, world.project)

            assert counter == world.read(quotas.sum_stored_bytes, world.project) == sum_referenced_bytes(world), name
        for job in history.jobs("running", "queued", "paused"):
            world.write(jobs.cancel, world.project, job.id)
        world.write(jobs.expire_leases, 3, worker_id="w")
        for job in history.jobs():
            world.write(jobs.delete, world.project, job.id)
        while world.read(models.list_models, world.project).items:
            history.delete_student(0)
        assert world.read(quotas.get_stored_bytes, world.project) == 10, "the dataset is left"

    check()


@pytest.mark.parametrize("retain", [False, True])
def test_checkpoint_counts_with_all_files_until_replaced(world, retain):
    before = world.read(quotas.get_stored_bytes, world.project)
    lease = world.start_job()
    for step, added in ((10, 20), (20, 40), (30, 40 + 10 * retain), (40, 40 + 20 * retain)):
        world.checkpoint(lease, step, retain=retain)
        assert world.read(quotas.get_stored_bytes, world.project) == before + added

    world.write(jobs.succeed, lease, result={}, artifacts=[])
    assert world.read(quotas.get_stored_bytes, world.project) == before + (40 if retain else 20), (
        "only weights are left"
    )
    world.write(jobs.delete, world.project, lease.job_id)
    assert world.read(quotas.get_stored_bytes, world.project) == before


def test_checkpoint_of_equal_size_does_not_wait_for_the_counter(world):
    lease = world.start_job()
    for step in (10, 20):
        world.checkpoint(lease, step)
    with world.db.read() as session:
        before = session.get(ProjectUsage, world.project).stored_bytes
    saved = []
    if world.db.engine.dialect.name == "postgresql":  # SQLite has only one writer
        with world.db.write() as session:
            session.query(ProjectUsage).filter_by(project_id=world.project).with_for_update().one()
            saved.append(world.checkpoint(lease, 30))
    saved.append(world.checkpoint(lease, 40))

    assert all(len(each.garbage_keys) == 2 for each in saved)
    assert world.read(quotas.get_stored_bytes, world.project) == before


def run_concurrently(*functions):
    """Call each function eight times, in its own thread; raise the first exception."""
    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(lambda run=run: [run(number) for number in range(8)]) for run in functions]
        for future in futures:
            future.result()


def test_concurrent_counter_updates_do_not_deadlock(world):
    """Checkpoints, successes, deletions, uploads and recounts take their locks in the same order."""

    def save_checkpoint(lease, number):
        files = [StoredFile(f"jobs/{lease.job_id}/c{number}/model.safetensors", 10 + 7 * number, "0" * 64)]
        world.write(checkpoints.save, lease, track="distill", step=number, epoch=0, files=files)

    def upload_and_delete(_number):
        dataset = world.write(
            datasets.create, world.project, name="u", source={}, upload_key="uploads/x", size_bytes=500
        )
        world.write(datasets.delete, world.project, dataset.id)

    def succeed_and_delete(number):
        lease = ending[number]
        artifact = NewArtifact("r", "text/plain", StoredFile(f"jobs/{lease.job_id}/a1/artifacts/r", 5, "0" * 64))
        world.write(jobs.succeed, lease, result={}, artifacts=[artifact])
        world.write(jobs.delete, world.project, lease.job_id)

    saving, ending = [world.start_job() for _ in range(2)], [world.start_job() for _ in range(8)]
    for lease in ending:
        world.checkpoint(lease, 10)
    run_concurrently(
        *(partial(save_checkpoint, lease) for lease in saving),
        upload_and_delete,
        succeed_and_delete,
        lambda _number: world.write(quotas.recount, world.project),
    )

    assert world.read(quotas.get_stored_bytes, world.project) == world.read(quotas.sum_stored_bytes, world.project)
