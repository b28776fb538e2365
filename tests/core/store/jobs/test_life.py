"""The life of a job under any order of moves, claims, losses and stale writes, against a model of the contract."""

import pytest
from hypothesis import HealthCheck, Phase, settings
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
MOVES = st.sampled_from(["cancel", "pause", "pause", "resume", "stop", "retry", "retry"])


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

    # Few rules with many words: Hypothesis leaves whole rules out of an example, so that many rules seldom meet.

    @rule(what=st.sampled_from(["claim", "claim", "save", "progress", "leave", "lose", "lose", "succeed", "fail"]))
    def work(self, what):
        if what == "claim" or self.status != "running":
            self.claim()
        else:
            getattr(self, what)()

    def claim(self):
        job = self.world.claim()
        assert (job is not None) == (self.status == "queued")
        if job is not None:
            self.status, self.attempts = "running", self.attempts + 1

    @precondition(lambda self: self.status == "running")
    @rule(steps=st.integers(0, 3))
    def get_on(self, steps):
        self.step += steps
        self.save()
        if steps:
            self.losses = 0

    def save(self):
        self.saved += 1
        if self.saved == 1:
            self.losses = 0
        files = [StoredFile(f"jobs/{self.job_id}/a{self.attempts}/c{self.saved}/model.safetensors", 1, "0" * 64)]
        self.world.do(checkpoints.save, self.attempt, track="distill", step=self.step, epoch=0, files=files)

    def progress(self):
        report = Progress(0.1, step=self.step // 2, total_steps=20, epoch=0)
        self.world.do(jobs.record_progress, self.attempt, report)

    def leave(self):
        held = self.attempt
        leave = (jobs.hand_back, jobs.paused, jobs.cancelled)[self.saved % 3]
        self.leaves()
        assert self.world.do(leave, held).status == self.status

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

    def succeed(self):
        if "cancel" in self.asked:
            with pytest.raises(Interrupted):
                self.world.do(jobs.succeed, self.attempt, result={}, artifacts=[])
            return
        self.world.do(jobs.succeed, self.attempt, result={}, artifacts=[])
        self.status, self.losses = "succeeded", 0
        self.ends()

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
        with self.world.db.read() as session:
            job = jobs.get(session, self.world.project, self.job_id)
            log = events.list_events(session, self.world.project, self.job_id).items
            saved = checkpoints.list_checkpoints(session, self.world.project, self.job_id).items
        self.check_job(job)
        self.check_log(log)
        steps = [one.step for one in saved]
        assert len(steps) == len(set(steps)) <= 2, "the newest two, and no step twice"
        assert max(steps, default=0) == self.step * bool(self.saved)

    def check_job(self, job):
        assert (job.status, job.attempt, job.losses) == (self.status, self.attempts, self.losses)
        assert job.pending_action == next((one for one in ("cancel", "pause", "stop") if one in self.asked), None)
        assert {"cancel": job.cancel_requested, "pause": job.pause_requested, "stop": job.stop_requested} == {
            one: one in self.asked for one in ("cancel", "pause", "stop")
        }
        assert job.terminal == (self.status in {"succeeded", "failed", "cancelled"})
        assert (job.finished_at is not None) == job.terminal
        assert (job.worker_id is not None) == (job.lease_expires_at is not None) == (self.status == "running")
        assert (job.error is not None) == (self.status == "failed")
        assert (job.result is not None) == (self.status == "succeeded")
        assert job.progress["step"] >= self.step
        assert [move for move in jobs.next_actions(job) if CONTRACT[self.status][move] is None] == []

    def check_log(self, log):
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        assert "stale" not in {event.type for event in log}
        assert [event.data["status"] for event in log if "status" in event.data][-1] == self.status


def test_any_life_of_a_job_follows_the_contract(world):
    JobLife.world = world
    examples = 60 if "sqlite" in world.url else 10

    run_state_machine_as_test(
        JobLife,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # shrinking takes minutes; add Phase.shrink to look into a failure
            suppress_health_check=list(HealthCheck),
        ),
    )
