"""Random kills and stops of processes of a running stack, and the guarantees that hold after each and at the end.

A hit is one signal to the processes of one target while a job trains its student or its baseline, or compresses the
student. After each hit: the job continues; it has a new attempt if and only if the hit ended its worker; its step never
falls below the newest checkpoint; the target responds again. At the end: every job has succeeded with the weights and
the gain of an undisturbed run, those of compressed networks included; its log is gapless and each attempt starts once;
no unreferenced file and no process is left.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
from sqlalchemy import delete

from core.settings import Settings
from core.store import garbage
from core.store.db import open_database
from core.store.storage_url import open_store
from core.store.tables import Teacher
from tests.chaos.logs import assert_attempts_are_sequential, assert_gapless, assert_resumed_from_checkpoints
from tests.chaos.specs import PRUNE, QUANTIZE, small_job
from tests.chaos.stack import GC_MIN_AGE_SECONDS, LEASE_SECONDS, Stack
from tests.support.api import artifacts_by_name, is_terminal, list_all
from tests.support.specs import DIGITS
from tests.support.waiting import until

SIGKILL, SIGSTOP = "SIGKILL", "SIGSTOP"
STOP_SECONDS = LEASE_SECONDS + 1.5
DATABASE_RESTART_SECONDS = 2.0  # an operator restarts the database
RECOVERY_SECONDS = 60.0
JOB_SECONDS = 300.0
CHECKPOINT_EPOCHS = 5
STAGES = ("distill", "baseline", "compress")  # in which a job is hit; their trainings are equally long
MAX_FRACTION = 0.8  # of a job's progress at a hit, so that the recovered job still trains
MAX_DELAY_SECONDS = 1.0  # of a hit, random

HitType = tuple[str, str]  # target, signal

HIT_TYPES: list[HitType] = [
    *(
        (target, signal_name)
        for target in ("api", "worker", "pool", "job", "scheduler", "inspector", "valkey")
        for signal_name in (SIGKILL, SIGSTOP)
    ),
    ("everything", SIGKILL),
]
POSTGRESQL_HIT_TYPES: list[HitType] = [("postgres", SIGKILL), ("postgres", SIGSTOP)]
# Only these hits end a job's attempt. A training continues while other processes are unavailable; while the job process
# itself is stopped, the pool process renews the lease.
ATTEMPT_ENDING_HITS: set[HitType] = {
    ("pool", SIGKILL),
    ("pool", SIGSTOP),
    ("job", SIGKILL),
    ("everything", SIGKILL),
    ("worker", SIGKILL),
}


@dataclass(frozen=True, slots=True)
class Hit:
    """One hit and its outcome. Steps, checkpoint and attempts are those of ``job``."""

    target: str
    signal: str
    job: str
    stage: str  # before the hit
    step: int  # before the hit
    checkpoint: int  # step of the newest one before the hit
    attempt: int  # before the hit
    attempt_after: int
    lowest_step: int  # after the hit
    seconds: float | None  # until recovery; None: not recovered in time
    problem: str  # violated guarantee, or empty

    @property
    def recovered(self) -> bool:
        return self.seconds is not None and not self.problem


class Attack:
    """Hits on one stack that runs jobs of one spec."""

    def __init__(self, stack: Stack, rng: random.Random, *, epochs: int, log: Callable[[str], None]) -> None:
        self._stack = stack
        self._rng = rng
        self._log = log
        self._epochs = epochs
        self._jobs: list[str] = []  # that were hit
        self._reference: dict[str, Any] = {}  # results of the undisturbed job
        self._num_saved = 0  # checkpoints of the newest job, of any track
        self._newest_event = ""  # of the newest job
        self._spec: dict[str, Any] = {}
        self._seeds = itertools.count(1)

    def prepare(self) -> None:
        """Run one undisturbed job; all other jobs must have its results."""
        dataset_id = self._stack.call("POST", "/v1/datasets", json=DIGITS).json()["id"]
        until(
            lambda: self._stack.get(f"/v1/datasets/{dataset_id}").json()["status"] == "ready",
            60,
            "the dataset did not become ready",
        )
        self._spec = small_job(
            dataset_id,
            epochs=self._epochs,
            teacher_epochs=1,
            baseline=True,
            compression=[{**PRUNE, "epochs": self._epochs}, QUANTIZE],
        )
        self._spec["training"]["checkpoint_every_epochs"] = CHECKPOINT_EPOCHS
        began = time.monotonic()
        job_id = self._submit()
        job = self._finished_job(job_id)
        assert (job["status"], job["attempt"]) == ("succeeded", 1), job
        stages = [stage["name"] for stage in job["stages"]]
        assert set(STAGES) <= set(stages), stages
        self._reference = self._results(job)
        self._log(f"undisturbed: {time.monotonic() - began:.0f} s, {self._reference}")

    def hits(self, num_hits: int, hit_types: list[HitType], max_seconds: float) -> Iterator[Hit]:
        """Hit up to ``num_hits`` times within ``max_seconds``; each type occurs once before any occurs again."""
        deadline = time.monotonic() + max_seconds
        remaining: list[HitType] = []
        for _ in range(num_hits):
            if time.monotonic() > deadline:
                return
            if not remaining:
                remaining = self._rng.sample(hit_types, len(hit_types))
            target, signal_name = remaining.pop()
            yield self._hit(target, signal_name, self._rng.uniform(0, MAX_DELAY_SECONDS))

    def problems(self) -> list[str]:
        """Wait for the jobs that were hit; return violated guarantees and leftover files."""
        problems = []
        for job_id in self._jobs:
            try:
                self._check_job(job_id)
            except (AssertionError, TimeoutError) as error:
                problems.append(f"{job_id}: {error}")
        try:
            until(
                lambda: not self._leftovers(), GC_MIN_AGE_SECONDS + RECOVERY_SECONDS, "leftover files were not deleted"
            )
        except TimeoutError as error:
            problems.append(f"{error}: {self._leftovers()}")
        return problems

    # --- one hit ------------------------------------------------------------------------------------

    def _hit(self, target: str, signal_name: str, delay_seconds: float) -> Hit:
        job_id = self._job_to_hit()
        processes = self._processes(target)
        time.sleep(delay_seconds)
        checkpoint = self._newest_checkpoint_step(job_id)
        before = self._job(job_id)
        assert before["status"] == "running", before
        assert before["stage"] in STAGES, before
        began, began_at = time.monotonic(), datetime.now(UTC)
        self._send(target, processes, signal_name)
        recovery = _Recovery(before, checkpoint, ends_attempt=(target, signal_name) in ATTEMPT_ENDING_HITS)
        seconds, problem = None, ""
        try:
            until(
                lambda: (
                    recovery.has_progressed(self._stack.try_get(f"/v1/jobs/{job_id}"))
                    and self._responds_again(target, began_at)
                ),
                RECOVERY_SECONDS,
                f"{job_id} did not continue, or {target} did not respond again",
            )
            seconds = time.monotonic() - began
        except TimeoutError as error:
            problem = str(error)
        hit = Hit(
            target, signal_name, job_id, before["stage"], before["progress"]["step"], checkpoint, before["attempt"],
            recovery.attempt, recovery.lowest_step, seconds, problem or recovery.problem(),
        )  # fmt: skip
        self._log(_format_hit(hit))
        return hit

    def _processes(self, target: str) -> list[psutil.Process]:
        if target == "everything":
            return self._stack.processes()
        return self._stack.postgres.processes() if target == "postgres" else [self._stack.wait_for_process(target)]

    def _send(self, target: str, processes: list[psutil.Process], signal_name: str) -> None:
        """Send the signal; after SIGSTOP wait and send SIGCONT. Restart what no supervisor restarts."""
        if target == "everything":
            self._stack.cut_power()
            self._stack.start()
        elif (target, signal_name) == ("postgres", SIGKILL):
            self._stack.postgres.kill()
            time.sleep(DATABASE_RESTART_SECONDS)
            self._stack.postgres.start()
        elif signal_name == SIGKILL:
            for process in processes:
                process.kill()
        else:
            try:
                for process in processes:
                    process.send_signal(signal.SIGSTOP)
                time.sleep(STOP_SECONDS)
            finally:
                for process in processes:
                    # A stopped process that lost its job may have been killed.
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGCONT)

    def _job_to_hit(self) -> str:
        """Return a job in one of the stages that has saved a checkpoint since the last hit, and is not almost done."""
        job_id = self._jobs[-1] if self._jobs else self._submit_job_to_hit()
        num_saved_at_last_hit = self._count_saved_checkpoints(job_id)
        while True:
            job = self._job(job_id)
            if is_terminal(job) or job["progress"]["fraction"] > MAX_FRACTION:
                self._finished_job(job_id)
                job_id, num_saved_at_last_hit = self._submit_job_to_hit(), 0
            elif (
                job["status"] == "running"
                and job["stage"] in STAGES
                and self._newest_checkpoint_step(job_id) > 0  # the student's, not its teacher's
                and self._count_saved_checkpoints(job_id) > num_saved_at_last_hit
            ):
                return job_id
            time.sleep(0.05)

    def _responds_again(self, target: str, since: datetime) -> bool:
        match target:
            case "api":
                return self._stack.is_alive()
            case "inspector":
                self._spec["training"]["seed"] = next(self._seeds)  # no cached estimate
                can_estimate = self._stack.can_estimate(self._spec)
                self._spec["training"]["seed"] = 0
                return can_estimate
            case "scheduler":
                workers = (self._stack.try_get("/v1/workers") or {"data": []})["data"]
                return any(
                    worker["role"] == "scheduler" and datetime.fromisoformat(worker["last_seen_at"]) > since
                    for worker in workers
                )
            case _:
                return self._stack.is_fully_ready()

    # --- jobs ---------------------------------------------------------------------------------------

    def _submit(self) -> str:
        response = self._stack.call("POST", "/v1/jobs", json=self._spec)
        assert response.status_code == 201, response.text
        return response.json()["id"]

    def _submit_job_to_hit(self) -> str:
        """Create a job that trains its teacher and baseline, as the undisturbed one did."""
        database = open_database(self._settings)
        with database.write() as session:
            session.execute(delete(Teacher))
        database.dispose()
        self._jobs.append(self._submit())
        self._num_saved, self._newest_event = 0, ""
        return self._jobs[-1]

    @property
    def _settings(self) -> Settings:
        return Settings(home=self._stack.home, database_url=self._stack.database_url)

    def _job(self, job_id: str) -> dict[str, Any]:
        return self._stack.get(f"/v1/jobs/{job_id}").json()

    def _finished_job(self, job_id: str) -> dict[str, Any]:
        """Wait until the job is terminal."""

        def poll() -> dict[str, Any] | None:
            job = self._job(job_id)
            return job if is_terminal(job) else None

        return until(poll, JOB_SECONDS, f"{job_id} did not finish")

    def _newest_checkpoint_step(self, job_id: str) -> int:
        checkpoints = self._stack.get(f"/v1/jobs/{job_id}/checkpoints", params={"limit": 1}).json()["data"]
        return checkpoints[0]["step"] if checkpoints else 0

    def _count_saved_checkpoints(self, job_id: str) -> int:
        """Number of checkpoints that the newest job has saved so far, of all its tracks."""
        path, has_more = f"/v1/jobs/{job_id}/events", True
        while has_more:
            after = {"after": self._newest_event} if self._newest_event else {}
            page = self._stack.get(path, params={"limit": 100, **after}).json()
            self._num_saved += sum(event["type"] == "checkpoint.saved" for event in page["data"])
            self._newest_event, has_more = (page["data"] or [{"id": self._newest_event}])[-1]["id"], page["has_more"]
        return self._num_saved

    def _results(self, job: dict[str, Any]) -> dict[str, Any]:
        """Digests of all published networks, accuracy of the baseline and gain over it, steps of the student."""
        path = f"/v1/jobs/{job['id']}/artifacts"
        listed = artifacts_by_name(self._stack, job["id"])
        results = {}
        for name in sorted(name for name in listed if name.endswith((".safetensors", ".onnx"))):
            digest = hashlib.sha256(self._stack.get(f"{path}/{name}").content).hexdigest()
            assert digest == listed[name]["sha256"], f"the download of {name} differs from the listed digest"
            results[name] = digest[:16]
        baseline = job["result"]["baseline"]
        return {**results, "baseline": baseline["top1"], "gain": baseline["gain"], "step": job["progress"]["step"]}

    def _check_job(self, job_id: str) -> None:
        job = self._finished_job(job_id)
        assert job["status"] == "succeeded", f"ended as {job['status']}: {job['error']}"
        results = self._results(job)
        assert results == self._reference, f"its results differ from the undisturbed run's: {results}"
        events = list_all(self._stack, f"/v1/jobs/{job_id}/events")
        assert_gapless(events)
        assert_attempts_are_sequential(events)
        assert_resumed_from_checkpoints(events)

    def _leftovers(self) -> list[str]:
        """Scratch folders of attempts, temporary files of interrupted writes, and stored files without a row."""
        home = self._stack.home
        settings = self._settings
        scratch = [*home.glob("work/*"), *home.rglob(".partial/*"), *home.rglob(".*.part")]
        database = open_database(settings)
        with database.read() as session:
            keys = [stored.key for stored in open_store(settings.resolved_storage_url()).list_prefix()]
            unreferenced = garbage.find_orphans(session, keys)
        database.dispose()
        return [str(path.relative_to(home)) for path in scratch] + unreferenced


class _Recovery:
    """Progress of a job after a hit."""

    def __init__(self, before: dict[str, Any], checkpoint: int, *, ends_attempt: bool) -> None:
        self.attempt: int = before["attempt"]
        self.lowest_step: int = before["progress"]["step"]
        self._attempt_before = self.attempt
        self._checkpoint = checkpoint
        self._ends_attempt = ends_attempt
        self._previous: tuple[int, float] | None = None  # attempt, fraction
        self._has_progressed = False

    def has_progressed(self, job: dict[str, Any] | None) -> bool:
        """Record the job's state; return whether it has progressed, in a new attempt if the hit ended the old one.

        Its fraction grows in all stages, its step in the student's training only.
        """
        if job is None:
            return False
        fraction, attempt = job["progress"]["fraction"], job["attempt"]
        self.attempt, self.lowest_step = attempt, min(self.lowest_step, job["progress"]["step"])
        succeeded = job["status"] == "succeeded"
        if self._previous is not None and attempt == self._previous[0] and (fraction > self._previous[1] or succeeded):
            self._has_progressed |= not self._ends_attempt or attempt > self._attempt_before
        self._previous = (attempt, fraction)
        return self._has_progressed

    def problem(self) -> str:
        """The violated guarantee, or an empty text."""
        if self.lowest_step < self._checkpoint:
            return f"went back to step {self.lowest_step}, below its checkpoint at {self._checkpoint}"
        num_new_attempts = self.attempt - self._attempt_before
        if num_new_attempts != int(self._ends_attempt):
            return f"{num_new_attempts} new attempts, {int(self._ends_attempt)} expected"
        return ""


def _format_hit(hit: Hit) -> str:
    seconds = "not recovered" if hit.seconds is None else f"{hit.seconds:5.1f} s"
    state = f"step {hit.step}, checkpoint {hit.checkpoint}, attempt {hit.attempt} → {hit.attempt_after}"
    return f"{hit.target:<10} {hit.signal:<8} {hit.stage:<8} {seconds}  {state}  {hit.problem}"
