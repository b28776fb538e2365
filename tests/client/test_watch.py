"""Following a job: facts of a line, lines without a terminal, outages."""

import io

import pytest
from rich.console import Console

from client import watch
from client.errors import ApiError, ServiceUnreachable
from client.watch import Curves, follow, format_progress

PROGRESS = {
    "fraction": 0.25,
    "step": 120,
    "total_steps": 480,
    "epoch": 1,
    "images_per_second": 310.0,
    "eta_seconds": 12.0,
}


class FakeJobs:
    """Returns the steps in order; a step is a job, an error to raise, or a job with its new events."""

    def __init__(self, steps, clock, seconds=1.0):
        self.steps, self.clock, self.seconds = list(steps), clock, seconds
        self.events = []
        self.num_metrics_requests = 0

    def get(self, job_id, *, wait_seconds=None):
        self.clock.now += self.seconds
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        job, self.events = step if isinstance(step, tuple) else (step, [])
        return job

    def metrics(self, job_id, *, name=None, max_points=None):
        assert max_points == 1
        self.num_metrics_requests += 1
        return [
            {"name": "train/loss", "points": [[120, 0.8123]]},
            {"name": "eval/top1", "points": [[120, 0.64]]},
            {"name": "teacher/0/loss", "points": [[9, 1.5]]},
        ]

    def past_events(self, job_id, *, after_id=None):
        return iter(self.events)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Service:
    def __init__(self, jobs):
        self.jobs = jobs


@pytest.fixture
def running(make_job):
    def make(stage="distill", **changes):
        job = make_job(status="running", terminal=False, stage=stage, progress=PROGRESS, result=None)
        return job | changes

    return make


@pytest.fixture
def watched(monkeypatch):
    """Follow a job through these steps; return the printed lines, the job and the fake service."""
    monkeypatch.setattr(watch, "retry_delay_seconds", lambda attempt: 0.0)

    def run(*steps, seconds=1.0, terminal=False):
        clock = Clock()
        jobs = FakeJobs(steps, clock, seconds)
        console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
        job = follow(Service(jobs), "job_1", console=console, clock=clock)
        return console.file.getvalue().splitlines(), job, jobs

    return run


def event(type_, message, level="info"):
    return {
        "id": f"evt_{message}",
        "type": type_,
        "message": message,
        "level": level,
        "created_at": "2026-11-24T08:00:00Z",
    }


def test_a_line_has_step_loss_accuracy_speed_and_remaining_time(running):
    text = format_progress(running(), Curves(loss=0.8123, top1=0.64))

    assert text == "step 120/480 · loss 0.812 · top-1 64.0% · 310 img/s · 12 s left"


def test_curves_are_those_of_the_training_that_runs():
    series = [
        {"name": name, "points": [[1, value]]}
        for name, value in (("train/loss", 1.0), ("eval/top1", 0.5), ("teacher/0/loss", 2.0), ("teacher/1/loss", 3.0))
    ]

    assert Curves.from_series(series, "distill") == Curves(1.0, 0.5)
    assert Curves.from_series(series, "teacher") == Curves(3.0, None)
    assert Curves.from_series([{"name": "train/loss", "points": []}], "distill") == Curves()


def test_without_a_terminal_there_is_a_line_for_each_stage_and_each_minute(watched, running, make_job):
    steps = [make_job(status="queued", terminal=False, stage=None), *[running("prepare")] * 3, *[running()] * 130]
    lines, job, jobs = watched(*steps, make_job())

    assert [line[9:].partition(":")[0] for line in lines] == ["queued", "prepare", "distill", "distill", "distill"]
    assert "25% · step 120/480 · loss 0.812 · top-1 64.0% · 310 img/s · 12 s left" in lines[2]
    assert job["status"] == "succeeded"
    assert jobs.num_metrics_requests == 4, "only for the lines of a running job"


def test_without_a_terminal_events_are_printed_except_those_of_stages_and_checkpoints(watched, running, make_job):
    events = [
        event("stage.started", "Stage distill started."),
        event("checkpoint.saved", "Checkpoint at step 3."),
        event("checkpoint.damaged", "Checkpoint is damaged.", "warning"),
        event("job.started", "Attempt [1] started."),
    ]
    lines, _, _ = watched((running(), events), make_job())

    assert [line for line in lines if line.startswith("08:00")] == [
        "08:00:00 Checkpoint is damaged.",
        "08:00:00 Attempt [1] started.",
    ]


def test_a_terminal_shows_loss_and_accuracy(watched, running, make_job):
    lines, _, _ = watched(running(), running(), make_job(), terminal=True)

    assert any("loss 0.812 · top-1 64.0%" in line for line in lines)


def test_an_outage_is_reported_once_and_the_job_is_followed_again(watched, running, make_job):
    outage = [ServiceUnreachable("refused"), ApiError(503, {"code": "unavailable"})]
    lines, job, _ = watched(running(), *outage, running(), make_job())

    assert job["status"] == "succeeded"
    assert sum("does not respond" in line for line in lines) == 1
    assert lines[-1] == "Connected again."


def test_an_outage_at_the_start_is_an_error(watched):
    with pytest.raises(ServiceUnreachable):
        watched(ServiceUnreachable("refused"))


def test_a_long_outage_is_an_error(watched, running):
    with pytest.raises(ServiceUnreachable):
        watched(running(), *[ServiceUnreachable("refused")] * 4, seconds=400.0)


def test_a_deleted_job_is_an_error(watched, running):
    with pytest.raises(ApiError):
        watched(running(), ApiError(404, {"code": "not_found"}))
