"""The lives of several jobs under any moves, claims, losses and stale writes, against a model of the contract."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from core.errors import InvalidState, NotFound
from core.job_failure import WORKER_SILENT
from core.reporting import Interrupted, Progress
from core.store import checkpoints, events, jobs, metrics, quotas
from core.store.artifact_store import StoredFile
from core.store.jobs import LeaseLost, LeaseToken
from core.store.tables import Base, Job

MAX_LOSSES = 3
MOVES = ("cancel", "pause", "resume", "stop", "retry")
ENDED = {"succeeded", "failed", "cancelled"}
# What may happen next, with its weight: to a job that runs, to any job, to all.
WORK = {"save": 4, "lose": 4, "report": 3, "leave": 2, "beat": 1, "go_silent": 1, "log": 1, "succeed": 1, "fail": 1}
OF_A_JOB = {"ask": 9, "write_stale": 3, "look_at_next_actions": 2, "delete": 1}
WORDS = [
    word
    for words in (WORK, OF_A_JOB, {"claim": 4, "take_back": 2, "create": 1})
    for word in words
    for _ in range(words[word])
]

# The contract's table: where a move leads at once; None is 409, "=" is 200, as it is.
CONTRACT = {
    "queued": {"cancel": "cancelled", "pause": "paused", "resume": "=", "stop": None, "retry": None},
    "running": {"cancel": "=", "pause": "=", "resume": "=", "stop": "=", "retry": None},
    "paused": {"cancel": "cancelled", "pause": "=", "resume": "queued", "stop": "queued", "retry": None},
    "succeeded": {"cancel": None, "pause": None, "resume": None, "stop": "=", "retry": None},
    "failed": {"cancel": None, "pause": None, "resume": None, "stop": None, "retry": "queued"},
    "cancelled": {"cancel": "=", "pause": None, "resume": None, "stop": None, "retry": "queued"},
}


# Everything that a worker may write.
WRITES = {
    "beat": lambda s, lease: jobs.renew_lease(s, lease, 60),
    "lose": lambda s, lease: jobs.record_loss(s, lease, WORKER_SILENT, 3),
    "event": lambda s, lease: events.append(s, lease, "stale", "stale"),
    "spec": lambda s, lease: jobs.set_spec(s, lease, {"stale": True}),
    "stage": lambda s, lease: jobs.start_stage(s, lease, "evaluate"),
    "end of stage": lambda s, lease: jobs.finish_stage(s, lease, "distill"),
    "progress": lambda s, lease: jobs.record_progress(s, lease, Progress(1.0, 99, 99, 9)),
    "metrics": lambda s, lease: metrics.insert(s, lease, [("stale", 0, 0.0)]),
    "fewer metrics": lambda s, lease: metrics.delete_after(s, lease, -1),
    "checkpoint": lambda s, lease: checkpoints.save(
        s, lease, track="distill", step=99, epoch=9, files=[StoredFile("jobs/x/model.safetensors", 1, "1" * 64)]
    ),
    "hand back": jobs.release,
    "paused": jobs.release_paused,
    "cancelled": jobs.release_cancelled,
    "fail": lambda s, lease: jobs.fail(s, lease, {"code": "stale", "message": "stale"}),
    "succeed": lambda s, lease: jobs.succeed(s, lease, result={"stale": True}, artifacts=[]),
}


@dataclass
class Life:
    """What a job should be."""

    job_id: str
    priority: int
    number: int  # jobs of one priority are served in this order
    status: str = "queued"
    asked: set = field(default_factory=set)
    worker: str | None = None
    attempts: int = 0
    losses: int = 0
    step: int = 0  # of the newest checkpoint
    reported: int = 0  # the furthest step that progress may still show
    saved: int = 0
    silent: bool = False  # its lease has run out
    deleted: bool = False

    @property
    def lease(self):
        return LeaseToken(self.job_id, self.attempts)

    def ends_or_waits(self, status):
        """It leaves its worker for ``status``."""
        self.status, self.worker, self.silent = status, None, False
        self.asked -= {"pause"}
        if status in ENDED:
            self.asked = set()

    def leaves(self):
        """It leaves its worker unfinished: what was asked for meanwhile happens."""
        self.ends_or_waits("cancelled" if "cancel" in self.asked else "paused" if "pause" in self.asked else "queued")

    def is_lost(self):
        """Its worker is taken for dead."""
        self.losses += 1
        if not self.asked & {"cancel", "pause"} and self.losses >= MAX_LOSSES:
            self.ends_or_waits("failed")
        else:
            self.leaves()


class JobLives(RuleBasedStateMachine):
    """A few jobs, two workers, an impatient user."""

    world = None  # set by the test

    def __init__(self):
        super().__init__()
        self.all = []
        self.create()

    def teardown(self):
        """Leave nothing that another example's worker could claim."""
        with self.world.db.engine.begin() as connection:
            for table in (Base.metadata.tables[name] for name in ("job_references", "jobs")):
                connection.execute(table.delete())
        self.do(quotas.recount, self.world.project)  # behind the back of what counts

    def do(self, function, *args, **options):
        return self.world.write(function, *args, **options)

    # One rule with many words: Hypothesis leaves whole rules out of an example, so that many rules seldom meet.

    @rule(what=st.sampled_from(WORDS), which=st.integers(0, 5), number=st.integers(0, 41))
    def step(self, what, which, number):
        if what in WORK:
            running = [life for life in self.all if life.status == "running"]
            if not running:
                self.claim(number)
                return
            getattr(self, what)(running[which % len(running)], number % 4)
        elif what in OF_A_JOB:
            getattr(self, what)(self.all[which % len(self.all)], number)
        else:
            getattr(self, what)(number)

    def create(self, number=0):
        if len(self.all) < 3:
            priority = number % 2
            self.all.append(Life(self.world.job(priority=priority), priority, len(self.all)))

    def ask(self, life, number):
        move = MOVES[number % len(MOVES)]
        if life.deleted:
            with pytest.raises(NotFound):
                self.do(getattr(jobs, move), self.world.project, life.job_id)
            return
        wanted = CONTRACT[life.status][move]
        if wanted is None:
            with pytest.raises(InvalidState) as refusal:
                self.do(getattr(jobs, move), self.world.project, life.job_id)
            assert refusal.value.extra["next_actions"] == jobs.next_actions(self.world.get(life.job_id))
            return
        job = self.do(getattr(jobs, move), self.world.project, life.job_id)
        if life.status == "running" and "cancel" not in life.asked:
            life.asked |= {move} & {"cancel", "pause", "stop"}
            life.asked -= {"pause"} if move == "resume" else set()
        if life.status == "paused" and move == "stop":
            life.asked |= {"stop"}
        if move == "retry":
            life.losses = 0
        if wanted != "=":
            life.ends_or_waits(wanted)
        assert job.status == life.status

    def claim(self, number):
        worker = ("wrk_a", "wrk_b")[number % 2]
        waits = [life for life in self.all if life.status == "queued"]
        best = min(waits, key=lambda life: (-life.priority, life.number), default=None)
        job = self.do(jobs.claim, worker_id=worker, accelerator="cpu", lease_seconds=60)

        assert (job and job.id) == (best and best.job_id)
        if best is not None:
            best.status, best.worker, best.attempts = "running", worker, best.attempts + 1
            assert job.attempt == best.attempts

    def beat(self, life, _):
        flags = self.do(jobs.renew_lease, life.lease, 60)
        life.silent = False
        assert {name for name in ("cancel", "pause", "stop") if getattr(flags, name)} == life.asked

    def go_silent(self, life, _):
        self.do(jobs.renew_lease, life.lease, -1)
        life.silent = True

    def save(self, life, steps):
        if steps or not life.saved:
            life.losses = 0
        life.step += steps
        life.saved += 1
        life.reported = max(life.reported, life.step)
        folder = f"jobs/{life.job_id}/a{life.attempts}/c{life.saved}"
        files = [StoredFile(f"{folder}/{name}", 1 + steps, "0" * 64) for name in ("model.safetensors", "state.pt")]
        self.do(checkpoints.save, life.lease, track="distill", step=life.step, epoch=0, files=files)

    def report(self, life, steps):
        step = max(0, life.step + steps - 2)  # after a loss an attempt reports less than was saved
        life.reported = max(step, life.step)
        self.do(jobs.record_progress, life.lease, Progress(0.1, step=step, total_steps=20, epoch=0))

    def log(self, life, steps):
        self.do(jobs.start_stage, life.lease, "distill")
        self.do(metrics.insert, life.lease, [("train/loss", step, 1.0) for step in range(steps)])
        self.do(events.append, life.lease, "note", "still here")

    def leave(self, life, steps):
        leave = (jobs.release, jobs.release_paused, jobs.release_cancelled, jobs.release)[steps]
        job = self.do(leave, life.lease)
        life.leaves()
        assert job.status == life.status

    def succeed(self, life, _):
        if "cancel" in life.asked:
            with pytest.raises(Interrupted):
                self.do(jobs.succeed, life.lease, result={}, artifacts=[])
            return
        self.do(jobs.succeed, life.lease, result={}, artifacts=[])
        life.ends_or_waits("succeeded")
        life.losses = 0

    def fail(self, life, _):
        self.do(jobs.fail, life.lease, {"code": "x", "message": "x"})
        life.ends_or_waits("cancelled" if "cancel" in life.asked else "failed")

    def lose(self, life, _):
        self.take_back_from(life.worker)

    def take_back(self, _):
        """The scheduler's round."""
        self.take_back_from(None)

    def take_back_from(self, dead):
        """Everything whose lease is over, and what a worker held that was seen to die."""
        lost = [one for one in self.all if one.status == "running" and (one.silent or one.worker == dead)]
        taken = self.do(jobs.expire_leases, MAX_LOSSES, worker_id=dead)

        assert {job.id for job in taken} == {life.job_id for life in lost}
        for life in lost:
            life.is_lost()
        for job in taken:
            assert (job.error is not None and job.error["code"] == "worker_lost") == (job.status == "failed")

    def write_stale(self, life, number):
        """An attempt that is not the job's any more can write nothing, whatever it tries."""
        back, what = number % 3, sorted(WRITES)[number % len(WRITES)]
        if back == 0 and life.status == "running":
            return
        before = self.world.rows()
        with pytest.raises(LeaseLost):
            self.do(WRITES[what], LeaseToken(life.job_id, life.attempts - back))

        assert self.world.rows() == before

    def delete(self, life, _):
        if life.status not in ENDED:
            with pytest.raises(NotFound if life.deleted else InvalidState):
                self.do(jobs.delete, self.world.project, life.job_id)
            return
        self.do(jobs.delete, self.world.project, life.job_id)
        life.deleted, life.status = True, "deleted"

    def look_at_next_actions(self, life, _):
        """They are the moves that would do something."""
        if life.deleted:
            return
        before, able = self.world.get(life.job_id), []
        for move in MOVES:
            with self.world.db.write() as session:
                try:
                    after = getattr(jobs, move)(session, self.world.project, life.job_id)
                except InvalidState:
                    continue
                if columns(after) != columns(before):
                    able.append(move)
                session.rollback()

        assert sorted(jobs.next_actions(before)) == sorted(able)

    @invariant()
    def every_job_is_what_the_model_says(self):
        for life in self.all:
            with self.world.db.read() as session:
                if life.deleted:
                    with pytest.raises(NotFound):
                        jobs.get(session, self.world.project, life.job_id)
                    continue
                job = jobs.get(session, self.world.project, life.job_id)
                log = events.list_events(session, self.world.project, life.job_id).items
                saved = checkpoints.list_checkpoints(session, self.world.project, life.job_id).items
            check_job(job, life)
            check_log(log, life)
            steps = [one.step for one in saved]
            assert len(steps) == len(set(steps)) <= 2, "the newest two, and no step twice"
            assert max(steps, default=0) == life.step * bool(life.saved)

    @invariant()
    def what_is_stored_is_what_the_rows_add_up_to(self):
        with self.world.db.read() as session:
            kept = quotas.get_stored_bytes(session, self.world.project)
            assert kept == quotas.sum_stored_bytes(session, self.world.project) >= 10, "its dataset is always there"


def columns(job):
    return {column.key: getattr(job, column.key) for column in Job.__mapper__.column_attrs}


def check_job(job, life):
    assert (job.status, job.attempt, job.worker_losses) == (life.status, life.attempts, life.losses)
    assert {"cancel": job.cancel_requested, "pause": job.pause_requested, "stop": job.stop_requested} == {
        one: one in life.asked for one in ("cancel", "pause", "stop")
    }
    assert job.pending_action == next((one for one in ("cancel", "pause", "stop") if one in life.asked), None)
    assert job.is_terminal == (life.status in ENDED)
    assert (job.finished_at is not None) == job.is_terminal
    assert job.worker_id == life.worker, "one holder at most, and the one that claimed it last"
    assert (job.lease_expires_at is not None) == (life.status == "running")
    assert (job.error is not None) == (life.status == "failed")
    assert (job.result is not None) == (life.status == "succeeded")
    assert job.checkpoint_step == life.step
    assert life.step <= job.progress["step"] == life.reported


def check_log(log, life):
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert "stale" not in {event.type for event in log}
    assert [event.data["status"] for event in log if "status" in event.data][-1] == life.status
    assert [event.attempt for event in log] == sorted(event.attempt for event in log), "attempts only grow"


EXAMPLES = {"sqlite": 80, "postgresql": 12}


def live(world, examples, steps):
    JobLives.world = world
    run_state_machine_as_test(
        JobLives,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # shrinking takes minutes; add Phase.shrink to look into a failure
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_lives_of_jobs_follow_the_contract(world):
    live(world, EXAMPLES[world.db.engine.dialect.name], steps=40)


@pytest.mark.slow
def test_so_do_many_longer_ones(world):
    live(world, 8 * EXAMPLES[world.db.engine.dialect.name], steps=60)
