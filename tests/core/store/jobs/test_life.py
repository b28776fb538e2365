"""The life of a job under any order of moves, claims, losses and stale writes, against a model of the contract."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from core.errors import InvalidState
from core.reporting import Interrupted, Progress
from core.store import checkpoints, events, jobs
from core.store.artifacts import StoredFile
from core.store.jobs import Attempt, LeaseLost

MAX_LOSSES = 3
ASKED_OF_A_RUNNING_JOB = {"cancel", "pause", "stop"}

# The contract's table: where a move leads at once; None is 409, "=" is 200, as it is.
CONTRACT = {
    "queued": {"cancel": "cancelled", "pause": "paused", "resume": "=", "stop": None, "retry": None},
    "running": {"cancel": "=", "pause": "=", "resume": "=", "stop": "=", "retry": None},
    "paused": {"cancel": "cancelled", "pause": "=", "resume": "queued", "stop": "queued", "retry": None},
    "succeeded": {"cancel": None, "pause": None, "resume": None, "stop": "=", "retry": None},
    "failed": {"cancel": None, "pause": None, "resume": None, "stop": None, "retry": "queued"},
    "cancelled": {"cancel": "=", "pause": None, "resume": None, "stop": None, "retry": "queued"},
}
MOVES = st.sampled_from(["cancel", "pause", "resume", "stop", "retry"])


class JobLife(RuleBasedStateMachine):
    """One job, several workers, an impatient user."""

    world = None  # set by the test

    def __init__(self):
        super().__init__()
        self.job_id = self.world.job()
        self.status = "queued"
        self.asked = set()
        self.attempts = 0
        self.losses = 0
        self.step = 0
        self.saved = 0

    def teardown(self):
        with self.world.db.write() as session:
            job = jobs.get(session, self.world.project, self.job_id)
            if job.status == "running":
                jobs.expire_leases(session, MAX_LOSSES, worker_id=job.worker_id)
            if not jobs.get(session, self.world.project, self.job_id).terminal:
                jobs.cancel(session, self.world.project, self.job_id)

    @property
    def attempt(self):
        return Attempt(self.job_id, self.attempts)

    def leaves(self):
        """Where the job lands when its worker leaves it unfinished."""
        self.status = "cancelled" if "cancel" in self.asked else "paused" if "pause" in self.asked else "queued"
        self.asked -= {"pause"}
        self.ends()

    def ends(self):
        if self.status in {"succeeded", "failed", "cancelled"}:
            self.asked = set()

    @rule(move=MOVES)
    def ask(self, move):
        wanted = CONTRACT[self.status][move]
        if wanted is None:
            with pytest.raises(InvalidState) as refusal:
                self.world.do(getattr(jobs, move), self.world.project, self.job_id)
            assert refusal.value.extra["next_actions"] == jobs.next_actions(self.world.get(self.job_id))
            return
        job = self.world.do(getattr(jobs, move), self.world.project, self.job_id)
        if self.status == "running" and "cancel" not in self.asked:
            self.asked |= {move} & ASKED_OF_A_RUNNING_JOB
            self.asked -= {"pause"} if move == "resume" else set()
        if self.status == "paused" and move == "stop":
            self.asked |= {"stop"}
        if move == "retry":
            self.losses = 0
        self.status = self.status if wanted == "=" else wanted
        self.ends()
        assert job.status == self.status

    @rule()
    def claim(self):
        job = self.world.claim()
        assert (job is not None) == (self.status == "queued")
        if job is not None:
            self.status, self.attempts = "running", self.attempts + 1

    @precondition(lambda self: self.status == "running")
    @rule(steps=st.integers(0, 3))
    def save(self, steps):
        self.saved += 1
        self.step += steps
        files = [StoredFile(f"jobs/{self.job_id}/a{self.attempts}/c{self.saved}/model.safetensors", 1, "0" * 64)]
        self.world.do(checkpoints.save, self.attempt, track="distill", step=self.step, epoch=0, files=files, keep=False)
        if steps or self.saved == 1:
            self.losses = 0

    @precondition(lambda self: self.status == "running")
    @rule(step=st.integers(0, 20))
    def progress(self, step):
        self.world.do(jobs.record_progress, self.attempt, Progress(0.1, step=step, total_steps=20, epoch=0))

    @precondition(lambda self: self.status == "running")
    @rule(how=st.sampled_from(["hand_back", "paused", "cancelled"]))
    def leave(self, how):
        self.leaves()
        assert self.world.do(getattr(jobs, how), Attempt(self.job_id, self.attempts)).status == self.status

    @precondition(lambda self: self.status == "running")
    @rule()
    def lose(self):
        (job,) = self.world.lose(max_losses=MAX_LOSSES)
        self.losses += 1
        if not self.asked & {"cancel", "pause"} and self.losses >= MAX_LOSSES:
            self.status = "failed"
            self.ends()
            assert job.error["code"] == "worker_lost"
        else:
            self.leaves()
        assert job.status == self.status

    @precondition(lambda self: self.status == "running")
    @rule()
    def succeed(self):
        try:
            self.world.do(jobs.succeed, self.attempt, result={}, artifacts=[])
        except Interrupted:
            assert "cancel" in self.asked
            return
        self.status, self.losses = "succeeded", 0
        self.ends()

    @precondition(lambda self: self.status == "running")
    @rule()
    def fail(self):
        self.status = "cancelled" if "cancel" in self.asked else "failed"
        self.ends()
        self.world.do(jobs.fail, self.attempt, {"code": "x", "message": "x"})

    @rule(back=st.integers(0, 2), what=st.sampled_from(["beat", "event", "succeed"]))
    def write_stale(self, back, what):
        if back == 0 and self.status == "running":
            return
        stale = Attempt(self.job_id, self.attempts - back)
        write = {
            "beat": lambda s: jobs.beat(s, stale, 60),
            "event": lambda s: events.append(s, stale, "stale", "stale"),
            "succeed": lambda s: jobs.succeed(s, stale, result={"stale": True}, artifacts=[]),
        }[what]
        with pytest.raises(LeaseLost):
            self.world.do(write)

    @invariant()
    def the_job_is_what_the_model_says(self):
        job = self.world.get(self.job_id)
        assert (job.status, job.attempt, job.losses) == (self.status, self.attempts, self.losses)
        pending = next((one for one in ("cancel", "pause", "stop") if one in self.asked), None)
        assert job.pending_action == pending
        assert job.terminal == (self.status in {"succeeded", "failed", "cancelled"})
        assert (job.finished_at is not None) == job.terminal
        assert (job.worker_id is not None) == (job.lease_expires_at is not None) == (self.status == "running")
        assert (job.error is not None) == (self.status == "failed")
        assert (job.result is not None) == (self.status == "succeeded")
        assert job.progress["step"] >= self.step

    @invariant()
    def next_actions_are_never_refused(self):
        for move in jobs.next_actions(self.world.get(self.job_id)):
            assert CONTRACT[self.status][move] is not None

    @invariant()
    def the_log_has_no_gap_and_tells_the_status(self):
        log = self.world.ask(events.list_events, self.world.project, self.job_id).items
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        assert "stale" not in {event.type for event in log}
        told = [event.data["status"] for event in log if "status" in event.data]
        assert told[-1] == self.status

    @invariant()
    def at_most_two_checkpoints_are_kept(self):
        page = self.world.ask(checkpoints.list_checkpoints, self.world.project, self.job_id)
        assert len(page.items) == min(2, len({one.step for one in page.items}))
        assert max((one.step for one in page.items), default=0) == self.step * bool(self.saved)


def test_any_life_of_a_job_follows_the_contract(world):
    JobLife.world = world
    examples = 25 if "sqlite" in world.url else 8

    run_state_machine_as_test(
        JobLife,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
