"""Random histories of several jobs (actions, claims, losses, stale writes), compared with a model of the contract."""

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

MAX_WORKER_LOSSES = 3
ACTIONS = ("cancel", "pause", "resume", "stop", "retry")
TERMINAL = {"succeeded", "failed", "cancelled"}
# Next steps with their weights: of a running job, of any job, of the service.
WORKER_STEPS = {
    "save": 4,
    "lose": 4,
    "report": 3,
    "leave": 2,
    "renew": 1,
    "expire": 1,
    "log": 1,
    "succeed": 1,
    "fail": 1,
}
JOB_STEPS = {"act": 9, "write_stale": 3, "check_next_actions": 2, "delete": 1}
SERVICE_STEPS = {"claim": 4, "expire_leases": 2, "create": 1}
STEPS = [step for weights in (WORKER_STEPS, JOB_STEPS, SERVICE_STEPS) for step in weights for _ in range(weights[step])]

# The contract's table: the status after an action; None is a 409, "=" is a 200 without a change.
CONTRACT = {
    "queued": {"cancel": "cancelled", "pause": "paused", "resume": "=", "stop": None, "retry": None},
    "running": {"cancel": "=", "pause": "=", "resume": "=", "stop": "=", "retry": None},
    "paused": {"cancel": "cancelled", "pause": "=", "resume": "queued", "stop": "queued", "retry": None},
    "succeeded": {"cancel": None, "pause": None, "resume": None, "stop": "=", "retry": None},
    "failed": {"cancel": None, "pause": None, "resume": None, "stop": None, "retry": "queued"},
    "cancelled": {"cancel": "=", "pause": None, "resume": None, "stop": None, "retry": "queued"},
}


# All writes of a worker.
WRITES = {
    "renew lease": lambda s, lease: jobs.renew_lease(s, lease, 60),
    "record loss": lambda s, lease: jobs.record_loss(s, lease, WORKER_SILENT, 3),
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
    "release": jobs.release,
    "paused": jobs.release_paused,
    "cancelled": jobs.release_cancelled,
    "fail": lambda s, lease: jobs.fail(s, lease, {"code": "stale", "message": "stale"}),
    "succeed": lambda s, lease: jobs.succeed(s, lease, result={"stale": True}, artifacts=[]),
}


@dataclass
class ExpectedJob:
    """Expected state of a job."""

    job_id: str
    priority: int
    number: int  # claim order within a priority
    status: str = "queued"
    requests: set = field(default_factory=set)
    worker: str | None = None
    attempts: int = 0
    losses: int = 0
    step: int = 0  # of the newest checkpoint
    reported: int = 0  # step of the progress
    saved: int = 0
    lease_expired: bool = False
    deleted: bool = False

    @property
    def lease(self):
        return LeaseToken(self.job_id, self.attempts)

    def leave_for(self, status):
        """Leave the worker or the queue for ``status``."""
        self.status, self.worker, self.lease_expired = status, None, False
        self.requests -= {"pause"}
        if status in TERMINAL:
            self.requests = set()

    def release(self):
        """Leave the worker unfinished; a requested action takes effect."""
        self.leave_for("cancelled" if "cancel" in self.requests else "paused" if "pause" in self.requests else "queued")

    def record_loss(self):
        """Lose the worker."""
        self.losses += 1
        if not self.requests & {"cancel", "pause"} and self.losses >= MAX_WORKER_LOSSES:
            self.leave_for("failed")
        else:
            self.release()


class JobHistories(RuleBasedStateMachine):
    """Three jobs, two workers and a user."""

    world = None  # set by the test

    def __init__(self):
        super().__init__()
        self.all = []
        self.create()

    def teardown(self):
        """Compare the counter with the rows, and delete the jobs, which the next example could claim."""
        with self.world.db.read() as session:  # `test_stored_bytes.py` compares them after each step
            stored_bytes = quotas.get_stored_bytes(session, self.world.project)
            summed_bytes = quotas.sum_stored_bytes(session, self.world.project)
        with self.world.db.engine.begin() as connection:
            for table in (Base.metadata.tables[name] for name in ("job_references", "jobs")):
                connection.execute(table.delete())
        self.do(quotas.recount, self.world.project)  # the deletion above bypasses the counter
        assert stored_bytes == summed_bytes >= 10, "its dataset is never deleted"

    def do(self, function, *args, **options):
        return self.world.write(function, *args, **options)

    # One rule for all steps: Hypothesis omits whole rules from an example, so separate rules would rarely combine.

    @rule(name=st.sampled_from(STEPS), job=st.integers(0, 5), number=st.integers(0, 41))
    def step(self, name, job, number):
        if name in WORKER_STEPS:
            running = [expected for expected in self.all if expected.status == "running"]
            if not running:
                self.claim(number)
                return
            getattr(self, name)(running[job % len(running)], number % 4)
        elif name in JOB_STEPS:
            getattr(self, name)(self.all[job % len(self.all)], number)
        else:
            getattr(self, name)(number)

    def create(self, number=0):
        if len(self.all) < 3:
            priority = number % 2
            self.all.append(ExpectedJob(self.world.job(priority=priority), priority, len(self.all)))

    def act(self, expected, number):
        action = ACTIONS[number % len(ACTIONS)]
        if expected.deleted:
            with pytest.raises(NotFound):
                self.do(getattr(jobs, action), self.world.project, expected.job_id)
            return
        next_status = CONTRACT[expected.status][action]
        if next_status is None:
            with pytest.raises(InvalidState) as refusal:
                self.do(getattr(jobs, action), self.world.project, expected.job_id)
            assert refusal.value.extra["next_actions"] == jobs.next_actions(self.world.get(expected.job_id))
            return
        job = self.do(getattr(jobs, action), self.world.project, expected.job_id)
        if expected.status == "running" and "cancel" not in expected.requests:
            expected.requests |= {action} & {"cancel", "pause", "stop"}
            expected.requests -= {"pause"} if action == "resume" else set()
        if expected.status == "paused" and action == "stop":
            expected.requests |= {"stop"}
        if action == "retry":
            expected.losses = 0
        if next_status != "=":
            expected.leave_for(next_status)
        assert job.status == expected.status

    def claim(self, number):
        worker = ("wrk_a", "wrk_b")[number % 2]
        queued = [expected for expected in self.all if expected.status == "queued"]
        best = min(queued, key=lambda expected: (-expected.priority, expected.number), default=None)
        job = self.do(jobs.claim, worker_id=worker, accelerator="cpu", lease_seconds=60)

        assert (job and job.id) == (best and best.job_id)
        if best is not None:
            best.status, best.worker, best.attempts = "running", worker, best.attempts + 1
            assert job.attempt == best.attempts

    def renew(self, expected, _):
        flags = self.do(jobs.renew_lease, expected.lease, 60)
        expected.lease_expired = False
        assert {name for name in ("cancel", "pause", "stop") if getattr(flags, name)} == expected.requests

    def expire(self, expected, _):
        self.do(jobs.renew_lease, expected.lease, -1)
        expected.lease_expired = True

    def save(self, expected, steps):
        if steps or not expected.saved:
            expected.losses = 0
        expected.step += steps
        expected.saved += 1
        expected.reported = max(expected.reported, expected.step)
        folder = f"jobs/{expected.job_id}/a{expected.attempts}/c{expected.saved}"
        files = [StoredFile(f"{folder}/{name}", 1 + steps, "0" * 64) for name in ("model.safetensors", "state.pt")]
        self.do(checkpoints.save, expected.lease, track="distill", step=expected.step, epoch=0, files=files)

    def report(self, expected, steps):
        step = max(0, expected.step + steps - 2)  # after a loss, an attempt reports steps before its checkpoint
        expected.reported = max(step, expected.step)
        self.do(jobs.record_progress, expected.lease, Progress(0.1, step=step, total_steps=20, epoch=0))

    def log(self, expected, steps):
        self.do(jobs.start_stage, expected.lease, "distill")
        self.do(metrics.insert, expected.lease, [("train/loss", step, 1.0) for step in range(steps)])
        self.do(events.append, expected.lease, "note", "log")

    def leave(self, expected, steps):
        leave = (jobs.release, jobs.release_paused, jobs.release_cancelled, jobs.release)[steps]
        job = self.do(leave, expected.lease)
        expected.release()
        assert job.status == expected.status

    def succeed(self, expected, _):
        if "cancel" in expected.requests:
            with pytest.raises(Interrupted):
                self.do(jobs.succeed, expected.lease, result={}, artifacts=[])
            return
        self.do(jobs.succeed, expected.lease, result={}, artifacts=[])
        expected.leave_for("succeeded")
        expected.losses = 0

    def fail(self, expected, _):
        self.do(jobs.fail, expected.lease, {"code": "x", "message": "x"})
        expected.leave_for("cancelled" if "cancel" in expected.requests else "failed")

    def lose(self, expected, _):
        self._expire_leases(expected.worker)

    def expire_leases(self, _):
        self._expire_leases(None)

    def _expire_leases(self, dead_worker):
        lost = [
            expected
            for expected in self.all
            if expected.status == "running" and (expected.lease_expired or expected.worker == dead_worker)
        ]
        expired = self.do(jobs.expire_leases, MAX_WORKER_LOSSES, worker_id=dead_worker)

        assert {job.id for job in expired} == {expected.job_id for expected in lost}
        for expected in lost:
            expected.record_loss()
        for job in expired:
            assert (job.error is not None and job.error["code"] == "worker_lost") == (job.status == "failed")

    def write_stale(self, expected, number):
        """No write of a stale attempt succeeds."""
        age, name = number % 3, sorted(WRITES)[number % len(WRITES)]
        if age == 0 and expected.status == "running":
            return
        before = self.world.rows()
        with pytest.raises(LeaseLost):
            self.do(WRITES[name], LeaseToken(expected.job_id, expected.attempts - age))

        assert self.world.rows() == before

    def delete(self, expected, _):
        if expected.status not in TERMINAL:
            with pytest.raises(NotFound if expected.deleted else InvalidState):
                self.do(jobs.delete, self.world.project, expected.job_id)
            return
        self.do(jobs.delete, self.world.project, expected.job_id)
        expected.deleted, expected.status = True, "deleted"

    def check_next_actions(self, expected, _):
        """They are the actions that would have an effect."""
        if expected.deleted:
            return
        before, effective = self.world.get(expected.job_id), []
        for action in ACTIONS:
            with self.world.db.write() as session:
                try:
                    after = getattr(jobs, action)(session, self.world.project, expected.job_id)
                except InvalidState:
                    continue
                if columns(after) != columns(before):
                    effective.append(action)
                session.rollback()

        assert sorted(jobs.next_actions(before)) == sorted(effective)

    @invariant()
    def jobs_match_the_model(self):
        for expected in self.all:
            with self.world.db.read() as session:
                if expected.deleted:
                    with pytest.raises(NotFound):
                        jobs.get(session, self.world.project, expected.job_id)
                    continue
                job = jobs.get(session, self.world.project, expected.job_id)
                log = events.list_events(session, self.world.project, expected.job_id).items
                saved = checkpoints.list_checkpoints(session, self.world.project, expected.job_id).items
            check_job(job, expected)
            check_log(log, expected)
            steps = [checkpoint.step for checkpoint in saved]
            assert len(steps) == len(set(steps)) <= 2, "at most the newest two, and no step twice"
            assert max(steps, default=0) == expected.step * bool(expected.saved)


def columns(job):
    stored = [
        column for column in Job.__mapper__.column_attrs if not column.deferred
    ]  # others are generated from these
    return {column.key: getattr(job, column.key) for column in stored}


def check_job(job, expected):
    assert (job.status, job.attempt, job.worker_losses) == (expected.status, expected.attempts, expected.losses)
    assert {"cancel": job.cancel_requested, "pause": job.pause_requested, "stop": job.stop_requested} == {
        action: action in expected.requests for action in ("cancel", "pause", "stop")
    }
    assert job.pending_action == next(
        (action for action in ("cancel", "pause", "stop") if action in expected.requests), None
    )
    assert job.is_terminal == (expected.status in TERMINAL)
    assert (job.finished_at is not None) == job.is_terminal
    assert job.worker_id == expected.worker, "only the last claim holds the job"
    assert (job.lease_expires_at is not None) == (expected.status == "running")
    assert (job.error is not None) == (expected.status == "failed")
    assert (job.result is not None) == (expected.status == "succeeded")
    assert job.checkpoint_step == expected.step
    assert expected.step <= job.progress["step"] == expected.reported


def check_log(log, expected):
    assert [event.seq for event in log] == list(range(1, len(log) + 1))
    assert "stale" not in {event.type for event in log}
    assert [event.data["status"] for event in log if "status" in event.data][-1] == expected.status
    assert [event.attempt for event in log] == sorted(event.attempt for event in log), "attempts never decrease"


EXAMPLES = {"sqlite": 12, "postgresql": 5}


def run_histories(world, examples, steps):
    JobHistories.world = world
    run_state_machine_as_test(
        JobHistories,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # shrinking takes minutes; add Phase.shrink to debug a failure
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_job_histories_follow_the_contract(world):
    run_histories(world, EXAMPLES[world.db.engine.dialect.name], steps=40)


@pytest.mark.slow
def test_long_random_job_histories_follow_the_contract(world):
    run_histories(world, 50 * EXAMPLES[world.db.engine.dialect.name], steps=60)
