"""Following a job: facts of a line, lines without a terminal, outages."""

import io

import pytest
from rich.console import Console

from potstill._sync import follow as follow_module
from potstill._sync.job import Job
from potstill._sync.jobs import Jobs
from potstill.documents import Event, Series
from potstill.errors import NotFound, NotReady, ServiceUnreachable, api_error
from potstill.job_progress import Curves, format_progress, open_view
from potstill.metrics import Metrics
from tests.support.openapi_documents import make_document

PROGRESS = make_document(
    "ProgressOut", fraction=0.25, step=120, total_steps=480, images_per_second=310.0, eta_seconds=12.0
)


class FakeJobs(Jobs):
    """Returns the steps in order; a step is a job, an error to raise, or a job with its new events."""

    def __init__(self, steps, clock, seconds=1.0):
        self.steps, self.clock, self.seconds = list(steps), clock, seconds
        self.new_events = []
        self.num_metrics_requests = 0

    def get(self, job_id, *, wait_seconds=None):
        self.clock.now += self.seconds
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        job, self.new_events = step if isinstance(step, tuple) else (step, [])
        return Job.model_validate(job)

    def metrics(self, job_id, *, name=None, max_points=None):
        assert max_points == 1
        self.num_metrics_requests += 1
        return Metrics(
            series=[
                {"name": "train/loss", "points": [[120, 0.8123]]},
                {"name": "eval/top1", "points": [[120, 0.64]]},
                {"name": "teacher/0/loss", "points": [[9, 1.5]]},
            ]
        )

    def past_events(self, job_id, *, after_id=None, limit=None):
        return iter(self.new_events)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def running(make_job):
    def make(stage="distill", **changes):
        job = make_job(status="running", terminal=False, stage=stage, progress=PROGRESS, result=None)
        return job | changes

    return make


@pytest.fixture
def watched(monkeypatch):
    """Follow a job through these steps; return the printed lines, the job and the fake service."""
    monkeypatch.setattr(follow_module, "retry_delay_seconds", lambda attempt: 0.0)

    def run(*steps, seconds=1.0, terminal=False, width=200, **options):
        clock = Clock()
        jobs = FakeJobs(steps, clock, seconds)
        console = Console(file=io.StringIO(), width=width, force_terminal=terminal)
        job = jobs.wait("job_1", progress=True, console=console, clock=clock, **options)
        return console.file.getvalue().splitlines(), job, jobs

    return run


def event(type_, message, level="info"):
    document = make_document("EventOut", id=f"evt_{message}", type=type_, message=message, level=level)
    return Event.model_validate(document)


def test_a_line_has_step_loss_accuracy_speed_and_remaining_time(running):
    text = format_progress(Job.model_validate(running()), Curves(loss=0.8123, top1=0.64))

    assert text == "step 120/480 · loss 0.812 · top-1 64.0 % · 310 img/s · 12 s left"


def test_a_line_has_the_step_of_the_network_that_trains(running):
    progress = {**PROGRESS, "step": 0, "stage_step": 320, "stage_total_steps": 1024}

    def step(stage, **changes):
        return format_progress(Job.model_validate(running(stage, progress=progress | changes))).split(" · ")[0]

    assert step("teacher") == "teacher step 320/1024"
    assert step("baseline") == "baseline step 320/1024"
    assert step("distill") == "step 0/480"
    assert step("teacher", stage_step=None) == "310 img/s"


def test_curves_are_those_of_the_training_that_runs():
    series = [
        Series(name=name, points=[(1, value)])
        for name, value in (("train/loss", 1.0), ("eval/top1", 0.5), ("teacher/0/loss", 2.0), ("teacher/1/loss", 3.0))
    ]

    assert Curves.from_series(series, "distill") == Curves(1.0, 0.5)
    assert Curves.from_series(series, "teacher") == Curves(3.0, None)
    assert Curves.from_series([Series(name="train/loss", points=[])], "distill") == Curves()


def test_without_a_terminal_there_is_a_line_for_each_stage_and_each_minute(watched, running, make_job):
    steps = [make_job(status="queued", terminal=False, stage=None), *[running("prepare")] * 3, *[running()] * 130]
    lines, job, jobs = watched(*steps, make_job())

    assert [line[9:].partition(":")[0] for line in lines] == ["queued", "prepare", "distill", "distill", "distill"]
    assert "25 % · step 120/480 · loss 0.812 · top-1 64.0 % · 310 img/s · 12 s left" in lines[2]
    assert job.status == "succeeded"
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

    assert any("loss 0.812 · top-1 64.0 %" in line for line in lines)


def test_a_bar_and_its_details_fit_into_80_columns(running):
    console = Console(file=io.StringIO(), width=80, force_terminal=True, no_color=True)

    with open_view(console) as view:
        view.show(Job.model_validate(running()), Curves(0.8123, 0.64), [])

    assert "  step 120/480 · loss 0.812 · top-1 64.0 % · 310 img/s · 12 s left" in console.file.getvalue()


def test_an_outage_is_reported_once_and_the_job_is_followed_again(watched, running, make_job):
    outage = [ServiceUnreachable("refused"), api_error(503, {"code": "unavailable"})]
    lines, job, _ = watched(running(), *outage, running(), make_job())

    assert job.status == "succeeded"
    assert sum("does not respond" in line for line in lines) == 1
    assert lines[-1].endswith("Connected again.")


def test_an_outage_at_the_start_is_an_error(watched):
    with pytest.raises(ServiceUnreachable):
        watched(ServiceUnreachable("refused"))


def test_an_outage_longer_than_the_job_may_run_is_an_error(watched, running):
    limited = running(spec={"resources": {"max_seconds": 1000}})

    with pytest.raises(ServiceUnreachable, match=r"the job goes on\. Follow it again: potstill jobs watch job_1"):
        watched(limited, *[ServiceUnreachable("refused")] * 5, seconds=400.0)


def test_an_outage_of_an_hour_is_tolerated(watched, running, make_job):
    _, job, _ = watched(running(), *[ServiceUnreachable("refused")] * 10, make_job(), seconds=400.0)

    assert job.status == "succeeded"


def test_after_a_timeout_the_job_goes_on(watched, running):
    with pytest.raises(NotReady, match="still running after 5 s; the job goes on"):
        watched(*[running()] * 9, timeout_seconds=5.0)


def test_a_deleted_job_is_an_error(watched, running):
    with pytest.raises(NotFound):
        watched(running(), api_error(404, {"code": "not_found"}))
