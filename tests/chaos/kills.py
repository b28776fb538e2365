"""Hits on a running stack, at random, and what has to be true after each and after all of them.

Of each hit: the job trained when it came; a new attempt where the job lost its worker and none elsewhere; no step below
the newest checkpoint that was there; the job got on, and what was hit answers again, by another process if killed.
At the end: every job succeeded with the weights of an undisturbed run, a gapless log with one turn an attempt, no file
that nothing names, no process.
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

from core.settings import Settings
from core.store import garbage
from core.store.db import open_database
from core.store.storage_url import open_store
from tests.chaos.logs import (
    assert_each_attempt_has_its_turn,
    assert_it_went_on_from_its_checkpoint,
    assert_no_gap,
)
from tests.chaos.specs import STEPS_PER_EPOCH, small_job
from tests.chaos.stack import LEASE_SECONDS, ORPHAN_SECONDS, Stack
from tests.support.waiting import until

SIGKILL, SIGSTOP = "SIGKILL", "SIGSTOP"
STOPPED_SECONDS = LEASE_SECONDS + 1.5
AWAY_SECONDS = 2.0  # a database that is started again by hand
RECOVERY_SECONDS = 60.0
JOB_SECONDS = 300.0
CHECKPOINT_EPOCHS = 5
LATEST_HIT = 0.8  # of the job's steps: what is hit must have something left to do
MOMENT_SECONDS = 1.0  # a hit comes at a random moment of so long

# A job loses its worker to these, and to nothing else. Who trains goes on while the others are away, and where its own
# process stands still, the one that watches over it keeps the lease.
TAKEN_AWAY = {("pool", SIGKILL), ("pool", SIGSTOP), ("job", SIGKILL), ("everything", SIGKILL), ("worker", SIGKILL)}
CARDS = [
    *(
        (part, how)
        for part in ("api", "worker", "pool", "job", "scheduler", "inspector", "valkey")
        for how in (SIGKILL, SIGSTOP)
    ),
    ("everything", SIGKILL),
]
CARDS_OF_POSTGRESQL = [("postgres", SIGKILL), ("postgres", SIGSTOP)]


@dataclass(frozen=True, slots=True)
class Hit:
    """One hit, and how it went."""

    target: str
    signal: str
    job: str
    step: int  # that the job was at
    checkpoint: int  # its newest one then
    attempt: int  # that was running
    attempt_after: int
    lowest_step: int  # that was seen afterwards
    seconds: float | None  # until it was overcome
    problem: str  # what was not as promised; empty: nothing

    @property
    def recovered(self) -> bool:
        return self.seconds is not None and not self.problem


class Attack:
    """Jobs of one spec on one stack, and hits on its parts."""

    def __init__(self, stack: Stack, draw: random.Random, *, epochs: int, say: Callable[[str], None]) -> None:
        self._stack = stack
        self._draw = draw
        self._say = say
        self._epochs = epochs
        self._jobs: list[str] = []  # that were hit
        self._calm = ""
        self._spec: dict[str, Any] = {}
        self._questions = itertools.count(1)

    def prepare(self) -> None:
        """An undisturbed run: the weights that every other has to give."""
        dataset = self._stack.call(
            "POST", "/v1/datasets", json={"name": "digits", "source": {"type": "builtin", "name": "digits"}}
        ).json()["id"]
        until(lambda: self._stack.get(f"/v1/datasets/{dataset}")["status"] == "ready", 60, "the dataset was not ready")
        self._spec = small_job(dataset, epochs=self._epochs, teacher_epochs=1)
        self._spec["training"]["checkpoint_every_epochs"] = CHECKPOINT_EPOCHS
        began = time.monotonic()
        calm = self._submit()
        done = self._finish(calm)
        assert (done["status"], done["attempt"]) == ("succeeded", 1), done
        self._calm = self._weights(calm)
        self._say(f"undisturbed: {time.monotonic() - began:.0f} s, model.safetensors {self._calm[:16]}…")

    def hits(self, number: int, cards: list[tuple[str, str]], seconds: float) -> Iterator[Hit]:
        """So many hits, as far as they fit into the time; each card comes once before any comes again."""
        ends = time.monotonic() + seconds
        deck: list[tuple[str, str]] = []
        for _ in range(number):
            if time.monotonic() > ends:
                return
            if not deck:
                deck = self._draw.sample(cards, len(cards))
            target, how = deck.pop()
            yield self._hit(target, how, self._draw.uniform(0, MOMENT_SECONDS))

    def problems(self) -> list[str]:
        """What is wrong with the jobs that were hit, and with what is left of them, at the end."""
        found = []
        for job in self._jobs:
            try:
                self._check(job)
            except (AssertionError, TimeoutError) as error:
                found.append(f"{job}: {error}")
        try:
            until(lambda: not self._leftovers(), ORPHAN_SECONDS + RECOVERY_SECONDS, "leftovers were not collected")
        except TimeoutError as error:
            found.append(f"{error}: {self._leftovers()}")
        return found

    # --- one hit ------------------------------------------------------------------------------------

    def _hit(self, target: str, how: str, after_seconds: float) -> Hit:
        job = self._job_to_hit()
        victims = self._victims(target)
        time.sleep(after_seconds)
        checkpoint = self._newest_checkpoint(job)
        before = self._stack.get(f"/v1/jobs/{job}")
        assert (before["status"], before["stage"]) == ("running", "distill"), before
        began, began_at = time.monotonic(), datetime.now(UTC)
        self._strike(target, victims, how)
        seen, seconds, problem = _Seen(job, before), None, ""
        try:
            until(
                lambda: (
                    seen.went_on(self._stack.look(f"/v1/jobs/{job}"), _may_lose(target, how))
                    and self._answers_again(target, began_at)
                ),
                RECOVERY_SECONDS,
                f"{job} did not go on, or {target} did not answer again",
            )
            seconds = time.monotonic() - began
        except TimeoutError as error:
            problem = str(error)
        hit = Hit(
            target, how, job, before["progress"]["step"], checkpoint, before["attempt"], seen.attempt, seen.lowest,
            seconds, problem or seen.problem(checkpoint, _may_lose(target, how)),
        )  # fmt: skip
        self._say(_line(hit))
        return hit

    def _victims(self, target: str) -> list[psutil.Process]:
        if target == "everything":
            return self._stack.everything()
        return self._stack.postgres.processes() if target == "postgres" else [self._stack.find(target)]

    def _strike(self, target: str, victims: list[psutil.Process], how: str) -> None:
        if target == "everything":
            self._stack.cut_power()
            self._stack.start()
        elif (target, how) == ("postgres", SIGKILL):
            self._stack.postgres.kill()
            time.sleep(AWAY_SECONDS)
            self._stack.postgres.start()
        elif how == SIGKILL:
            for process in victims:
                process.kill()
        else:
            try:
                for process in victims:
                    process.send_signal(signal.SIGSTOP)
                time.sleep(STOPPED_SECONDS)
            finally:
                for process in victims:
                    # A process that lost its job while it stood still may have been killed.
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGCONT)

    def _job_to_hit(self) -> str:
        """A job that trains, has a checkpoint that no hit has seen, and has time left; another one if need be."""
        job = self._jobs[-1] if self._jobs else self._submit_to_hit()
        floor = self._newest_checkpoint(job)
        while True:
            seen = self._stack.get(f"/v1/jobs/{job}")
            if seen["terminal"] or seen["progress"]["fraction"] > LATEST_HIT:
                self._finish(job)
                job, floor = self._submit_to_hit(), 0
            elif (seen["status"], seen["stage"]) == ("running", "distill") and self._newest_checkpoint(job) > floor:
                return job
            time.sleep(0.05)

    def _is_replaced(self, target: str, victims: list[psutil.Process]) -> bool:
        """Whether another process has the part of one that was killed."""
        if target in {"everything", "postgres"}:
            return True
        found = self._stack.look_for(target)
        return found is not None and found.pid not in {process.pid for process in victims}

    def _answers_again(self, target: str, since: datetime) -> bool:
        match target:
            case "api":
                return self._stack.alive()
            case "inspector":
                self._spec["training"]["seed"] = next(self._questions)  # a question that nobody asked before
                found = self._stack.explains(self._spec)
                self._spec["training"]["seed"] = 0
                return found
            case "scheduler":
                listed = self._stack.look("/v1/workers") or {"data": []}
                return any(
                    one["role"] == "scheduler" and datetime.fromisoformat(one["last_seen_at"]) > since
                    for one in listed["data"]
                )
            case _:
                return self._stack.whole()

    # --- jobs ---------------------------------------------------------------------------------------

    def _submit(self) -> str:
        answer = self._stack.call("POST", "/v1/jobs", json=self._spec)
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]

    def _submit_to_hit(self) -> str:
        self._jobs.append(self._submit())
        return self._jobs[-1]

    def _finish(self, job: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            seen = self._stack.get(f"/v1/jobs/{job}")
            return seen if seen["terminal"] else None

        return until(ended, JOB_SECONDS, f"{job} did not end")

    def _newest_checkpoint(self, job: str) -> int:
        listed = self._stack.get(f"/v1/jobs/{job}/checkpoints", params={"limit": 1})["data"]
        return listed[0]["step"] if listed else 0

    def _weights(self, job: str) -> str:
        listed = {one["name"]: one for one in self._stack.get(f"/v1/jobs/{job}/artifacts")["data"]}
        weights = listed["model.safetensors"]
        content = self._stack.call("GET", f"/v1/jobs/{job}/artifacts/model.safetensors").content
        assert hashlib.sha256(content).hexdigest() == weights["sha256"], "the download is not what the list says"
        return weights["sha256"]

    def _check(self, job: str) -> None:
        done = self._finish(job)
        assert done["status"] == "succeeded", f"ended as {done['status']}: {done['error']}"
        assert done["progress"]["step"] >= self._epochs * STEPS_PER_EPOCH, done["progress"]
        assert self._weights(job) == self._calm, "its weights are not those of an undisturbed run"
        events = self._stack.everything_of(f"/v1/jobs/{job}/events")
        assert_no_gap(events)
        assert_each_attempt_has_its_turn(events)
        assert_it_went_on_from_its_checkpoint(events)

    def _leftovers(self) -> list[str]:
        """Files that nothing names: folders of attempts, files that were being written, stored ones without a row."""
        home = self._stack.home
        settings = Settings(home=home, database_url=self._stack.database_url)
        work = [str(path.relative_to(home)) for path in (home / "work").glob("*")]
        partial = [str(path.relative_to(home)) for path in home.rglob("*.partial/*")]
        beside = [str(path.relative_to(home)) for path in home.rglob("*.partial") if path.is_file()]
        database = open_database(settings)
        with database.read() as session:
            keys = [one.key for one in open_store(settings.resolved_storage_url()).list_prefix()]
            unnamed = garbage.orphans(session, keys)
        database.dispose()
        return work + partial + beside + unnamed


class _Seen:
    """What was seen of a job after a hit."""

    def __init__(self, job: str, before: dict[str, Any]) -> None:
        self._job = job
        self._before = before
        self._last: tuple[int, int] | None = None
        self.attempt: int = before["attempt"]
        self.lowest: int = before["progress"]["step"]
        self._grew = False

    def went_on(self, seen: dict[str, Any] | None, expected: bool) -> bool:
        """Whether its step has grown since, under a new attempt if one is expected."""
        if seen is None:
            return False
        step, attempt = seen["progress"]["step"], seen["attempt"]
        self.attempt, self.lowest = attempt, min(self.lowest, step)
        ended = seen["status"] == "succeeded"
        if self._last is not None and attempt == self._last[0] and (step > self._last[1] or ended):
            self._grew = self._grew or not expected or attempt > self._before["attempt"]
        self._last = (attempt, step)
        return self._grew

    def problem(self, checkpoint: int, expected: bool) -> str:
        if self.lowest < checkpoint:
            return f"went back to step {self.lowest}, below its checkpoint at {checkpoint}"
        grown = self.attempt - self._before["attempt"]
        if grown != int(expected):
            return f"{grown} new attempts, {int(expected)} expected"
        return ""


def _may_lose(target: str, how: str) -> bool:
    return (target, how) in TAKEN_AWAY


def _line(hit: Hit) -> str:
    took = "not overcome" if hit.seconds is None else f"{hit.seconds:5.1f} s"
    where = f"step {hit.step}, checkpoint {hit.checkpoint}, attempt {hit.attempt} → {hit.attempt_after}"
    return f"{hit.target:<10} {hit.signal:<8} {took}  {where}  {hit.problem}"
