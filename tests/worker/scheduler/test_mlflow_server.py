"""The same reports to a real MLflow server."""

import pytest

from core.store import tracking
from core.store.outbound_tables import OutboundTask
from tests.support.mlflow_process import call_mlflow, run_mlflow
from tests.worker.scheduler.conftest import FILES
from worker.scheduler.mlflow_sync import INTERVAL_SECONDS, MlflowSync

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory):
    with run_mlflow(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


def history(url, run_id, key):
    path = f"mlflow/metrics/get-history?run_id={run_id}&metric_key={key}&max_results=1000"
    points, page = [], call_mlflow(url, path)
    while True:
        points += [(int(point.get("step", 0)), point["value"]) for point in page["metrics"]]
        if not page.get("next_page_token"):
            return points
        page = call_mlflow(url, f"{path}&page_token={page['next_page_token']}")


def test_a_real_server_has_the_run_its_files_and_the_model(service, store, make_runner, start_job, mlflow_url):
    service.write(tracking.enable, enabled=True)
    changes = {"mlflow_tracking_uri": mlflow_url, "mlflow_experiment": "pets & more"}
    settings = service.settings.model_copy(update=changes)
    sync = MlflowSync(service.context.database, store, settings)
    runner = make_runner(tracking=sync)
    job = start_job(name="deit/pets", metadata={"team": "search"})
    job.log(1, 1200)
    assert runner.run_next()
    job.log(1201, 1210)
    job.succeed(with_model=True)
    # Two reports are interrupted: after the points, and after the files.
    for name in ("log_metrics", "put_artifact"):
        interrupt(sync, name)
        runner.later(INTERVAL_SECONDS + 7200)
        assert runner.run_next()
    runner.later(7200)
    assert runner.run_next()

    with service.context.database.read() as session:
        task = session.query(OutboundTask).one()
    assert (task.status, task.error) == ("succeeded", None)
    run_id = task.result["run_id"]
    run = call_mlflow(mlflow_url, f"mlflow/runs/get?run_id={run_id}")["run"]
    assert run["info"]["status"] == "FINISHED"
    assert {each["key"]: each["value"] for each in run["data"]["params"]}["method.temperature"] == "4.0"
    assert history(mlflow_url, run_id, "train/loss") == [(step, 1.0 / step) for step in range(1, 1211)]
    assert history(mlflow_url, run_id, "result/student/top1") == [(0, 0.9)]
    listed = call_mlflow(mlflow_url, f"mlflow/artifacts/list?run_id={run_id}&path=student")["files"]
    assert {each["path"]: int(each["file_size"]) for each in listed} == {
        f"student/{name}": len(content) for name, content in FILES.items()
    }
    versions = call_mlflow(mlflow_url, "mlflow/model-versions/search?filter=name%3D%27deit-pets%27")["model_versions"]
    assert [(each["version"], each["run_id"]) for each in versions] == [("1", run_id)]
    tags = {each["key"]: each["value"] for each in versions[0]["tags"]}
    assert tags["potstill.job_id"] == job.id


def interrupt(sync, name):
    """Let the next call of a method of the client do its work and then fail, as a killed process does."""
    mlflow = sync._mlflow

    class Interrupted(type(mlflow)):
        pass

    def call_and_fail(self, *args):
        getattr(type(mlflow), name)(mlflow, *args)
        sync._mlflow = mlflow
        raise RuntimeError("interrupted by the test")

    setattr(Interrupted, name, call_and_fail)
    sync._mlflow = Interrupted(mlflow.client)
