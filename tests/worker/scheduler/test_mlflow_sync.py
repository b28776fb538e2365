"""Jobs are reported to an MLflow server: a stand-in that checks each request against the published REST API."""

import hashlib
import os
import signal
import subprocess
import sys

import pytest
from pydantic import SecretStr

from core.store import events, jobs, outbound, tracking
from core.store.outbound_tables import OutboundTask
from core.store.tables import Job
from tests.support.mlflow_server import MlflowStandIn
from tests.worker.scheduler.conftest import FILES
from worker.scheduler.mlflow_sync import INTERVAL_SECONDS, MlflowSync, flatten
from worker.scheduler.outbound_runner import LEASE_SECONDS
from worker.scheduler.scheduler import Scheduler


@pytest.fixture
def mlflow():
    server = MlflowStandIn(token="geheim")
    yield server
    server.close()


@pytest.fixture
def sync(service, store, mlflow, make_runner):
    """Enable tracking; return a runner of its tasks."""
    service.write(tracking.enable, enabled=True)
    changes = {"mlflow_tracking_uri": mlflow.url, "mlflow_token": SecretStr("geheim"), "mlflow_timeout_seconds": 5.0}
    settings = service.settings.model_copy(update=changes)
    runner = make_runner(tracking=MlflowSync(service.context.database, store, settings))
    runner.settings = settings
    return runner


def task_of(service):
    with service.context.database.read() as session:
        return session.query(OutboundTask).one()


def tracking_events(service, job):
    listed = service.read(events.list_events, service.project, job.id).items
    return [each for each in listed if each.type.startswith("tracking.")]


def points(run, key):
    return [step for name, step, _ in run["metrics"] if name == key]


def test_a_job_is_reported_while_it_trains_and_completely_at_its_end(service, sync, mlflow, start_job):
    job = start_job(name="deit/pets", metadata={"team": "search", "mlflow.experiment": "pets"})
    job.log(1, 3)
    assert sync.run_next()
    assert not sync.run_next(), "the next report follows after an interval"
    run = mlflow.run_of(job.id)
    assert (run["info"]["status"], points(run, "train/loss")) == ("RUNNING", [1, 2, 3])

    job.log(4, 5)
    job.log(1, 1, "eval/top1")
    sync.later(INTERVAL_SECONDS + 1)
    assert sync.run_next()
    assert (points(run, "train/loss"), points(run, "eval/top1")) == ([1, 2, 3, 4, 5], [1])

    job.log(6, 6)
    job.succeed()
    assert sync.run_next(), "the end of a job is reported at once"
    assert not sync.run_next()

    assert mlflow.experiments == {"pets": run["info"]["experiment_id"]}
    assert (run["info"]["status"], run["info"]["run_name"]) == ("FINISHED", "deit/pets")
    assert run["info"]["end_time"] >= run["info"]["start_time"]
    assert run["params"]["method.temperature"] == "4.0"
    assert run["params"]["teachers.0.architecture"] == "resnet18"
    assert run["tags"]["metadata.team"] == "search"
    assert points(run, "train/loss") == [1, 2, 3, 4, 5, 6]
    assert points(run, "result/student/top1") == points(run, "result/teacher_0/top1") == [0]
    folder = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/") + "/student/"
    assert mlflow.files == {folder + name: content for name, content in FILES.items()}
    task = task_of(service)
    assert (task.status, task.result["run_id"]) == ("succeeded", run["info"]["run_id"])
    recorded = tracking_events(service, job)
    assert [each.type for each in recorded] == ["tracking.run_created", "tracking.finished"]
    assert {each.data["run_id"] for each in recorded} == {run["info"]["run_id"]}
    assert (recorded[-1].data["status"], recorded[-1].data["model_version"]) == ("FINISHED", None)


def test_the_student_becomes_a_version_of_a_registered_model(service, sync, mlflow, start_job):
    job = start_job(name="deit/pets")
    model_id = job.succeed(with_model=True)
    sync.run_next()

    (version,) = mlflow.versions
    assert (version["name"], version["version"]) == ("deit-pets", "1")
    assert version["source"] == mlflow.run_of(job.id)["info"]["artifact_uri"] + "/student"
    assert version["tags"]["potstill.sha256"] == hashlib.sha256(FILES["model.safetensors"]).hexdigest()
    expected = {"potstill.job_id": job.id, "potstill.model": model_id, "potstill.parent": "mdl_parent"}
    assert version["tags"].items() >= expected.items()
    assert (
        tracking_events(service, job)[-1].data.items()
        >= {"registered_model": "deit-pets", "model_version": "1"}.items()
    )


def test_whatever_request_is_lost_nothing_is_doubled(service, sync, mlflow, start_job):
    """The server does what was requested, and its response is lost: at each request of a report in turn."""
    job = start_job(name="small")
    job.log(1, 4)
    job.succeed(with_model=True)
    for lost in range(60):
        mlflow.break_after = lost
        sync.run_next()
        mlflow.break_after = None
        if task_of(service).status == "succeeded":
            break
        sync.later(7200)
    assert lost > 8, "each request was lost once"

    run = mlflow.run_of(job.id)
    assert len(mlflow.runs) == 1
    assert points(run, "train/loss") == [1, 2, 3, 4]
    assert points(run, "result/student/top1") == [0]
    assert len(mlflow.files) == len(FILES)
    assert [version["run_id"] for version in mlflow.versions] == [run["info"]["run_id"]]
    assert run["info"]["status"] == "FINISHED"
    assert [each.type for each in tracking_events(service, job)] == ["tracking.run_created", "tracking.finished"]


def test_a_dead_server_delays_no_job_and_loses_nothing(service, sync, mlflow, start_job):
    mlflow.status = 503
    job = start_job()
    job.log(1, 2)
    sync.run_next()
    job.succeed()
    for _ in range(30):
        sync.later(2 * 3600)
        sync.run_next()
    assert service.reload(job).status == "succeeded"
    task = task_of(service)
    assert (task.status, task.error["code"], task.num_failures) == ("pending", "tracking_unavailable", 31)

    mlflow.status = None
    sync.later(2 * 3600)
    sync.run_next()
    assert points(mlflow.run_of(job.id), "train/loss") == [1, 2]
    assert task_of(service).status == "succeeded"


def test_a_scheduler_killed_during_a_report_is_followed_by_another(service, sync, mlflow, start_job):
    """SIGKILL reaches the process after the server has created the run, and before the run's id is saved."""
    job = start_job()
    job.log(1, 3)
    code = (
        "import os, signal; from core.settings import Settings; from core.store.db import open_database;"
        "from core.store.storage_url import open_store; from core.fetch.mlflow import Mlflow;"
        "from worker.scheduler.mlflow_sync import MlflowSync;"
        "from worker.scheduler.outbound_runner import OutboundRunner;"
        "settings = Settings(); database = open_database(settings); create = Mlflow.create_run;"
        "Mlflow.create_run = lambda *a, **k: (create(*a, **k), os.kill(os.getpid(), signal.SIGKILL));"
        "sync = MlflowSync(database, open_store(settings.resolved_storage_url()), settings);"
        "OutboundRunner(database, {'tracking': sync}).run_next()"
    )
    environment = {
        **os.environ,
        "POTSTILL_HOME": str(service.settings.home),
        "POTSTILL_MLFLOW_TRACKING_URI": mlflow.url,
        "POTSTILL_MLFLOW_TOKEN": "geheim",
    }
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    assert not sync.run_next(), "the lease of the killed process protects the task"
    sync.later(LEASE_SECONDS + 1)
    assert sync.run_next()

    assert len(mlflow.runs) == 1
    assert points(mlflow.run_of(job.id), "train/loss") == [1, 2, 3]


def test_a_retry_goes_on_with_the_run_and_another_spec_is_another_run(service, sync, mlflow, start_job):
    job = start_job()
    error = {"code": "run_failed", "message": "x", "fault": "service", "retryable": True}
    service.write(jobs.fail, job.lease, error)
    sync.run_next()
    assert mlflow.run_of(job.id)["info"]["status"] == "FAILED"
    assert mlflow.run_of(job.id)["tags"]["potstill.error"] == "run_failed"

    service.write(jobs.retry, service.project, job.id)
    sync.run_next()
    assert mlflow.run_of(job.id)["info"]["status"] == "RUNNING"

    def change_spec(session):
        row = session.get(Job, job.id)
        row.spec = {**row.spec, "training": {"epochs": 3}}

    service.write(change_spec)
    sync.later(INTERVAL_SECONDS + 1)
    sync.run_next()
    assert [run["params"]["training.epochs"] for run in mlflow.runs.values()] == ["2", "3"]


def test_a_server_that_takes_no_files_gets_links(service, sync, mlflow, start_job):
    mlflow.artifact_scheme = "s3://bucket"
    job = start_job()
    job.succeed()
    sync.run_next()

    assert mlflow.files == {}
    link = mlflow.run_of(job.id)["tags"]["potstill.artifact.model.safetensors"]
    assert link.endswith(f"/v1/jobs/{job.id}/artifacts/model.safetensors")


def test_a_run_that_was_deleted_ends_the_report(service, sync, mlflow, start_job):
    job = start_job()
    sync.run_next()
    mlflow.runs.clear()
    job.log(1, 1)
    job.succeed()
    sync.run_next()

    assert (task_of(service).status, task_of(service).error["code"]) == ("failed", "tracking_rejected")


def test_the_scheduler_enables_tracking_by_its_settings(service, sync, mlflow, start_job):
    scheduler = Scheduler(sync.settings)
    scheduler.run_outbound_tasks()
    job = start_job()
    scheduler.run_outbound_tasks()
    scheduler.close()
    assert mlflow.run_of(job.id)["info"]["status"] == "RUNNING"

    disabled = Scheduler(service.settings)
    disabled.run_outbound_tasks()
    disabled.close()
    start_job()
    with service.context.database.read() as session:
        assert outbound.count_due(session, tracking.utc_now(session), ["tracking"], limit=9) == 0
        assert session.query(OutboundTask).count() == 1


def test_parameters_are_the_leaves_of_the_spec():
    spec = {"a": {"b": [1, {"c": None}]}, "long": "x" * 900, "empty": [], "is": True, "odd key!": "v"}

    assert flatten(spec) == {
        "a.b.0": "1",
        "a.b.1.c": "null",
        "long": "x" * 500,
        "empty": "[]",
        "is": "true",
        "odd key_": "v",
    }
