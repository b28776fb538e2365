"""Retries with a changed spec."""

import pytest

from core.job_failure import FailureCause
from core.store import events, jobs
from core.store.jobs import LeaseToken


@pytest.fixture
def failed(http, server, tenant, spec_of, tmp_path):
    """Create a job that failed with this code after a checkpoint at step 3; return its path."""

    def make(code="out_of_memory"):
        spec = spec_of(tenant.ready_dataset(), training={"epochs": 2, "batch_size": 8, "image_size": 8})
        job_id = http.post("/v1/jobs", json=spec).json()["id"]
        with server.database.write() as session:
            job = jobs.claim(session, worker_id="wrk_x", accelerator="cpu", lease_seconds=600)
            while job.id != job_id:  # a job of another test
                job = jobs.claim(session, worker_id="wrk_x", accelerator="cpu", lease_seconds=600)
        lease = LeaseToken.from_job(job)
        tenant.checkpoint(lease, tmp_path, 3)
        with server.database.write() as session:
            job = jobs.get_leased(session, lease)
            cause = FailureCause(code, "it happened", "capacity", log=["last line"], machine=None)
            error = cause.to_error(spec=job.spec, stage="distill", fraction=0.5, has_checkpoint=False)
            jobs.fail(session, lease, error)
        return f"/v1/jobs/{job_id}"

    return make


def pointers(response):
    return [error["pointer"] for error in response.json()["errors"]]


def last_event(server, tenant, path):
    with server.database.read() as session:
        items = events.list_events(session, tenant.project_id, path.rpartition("/")[2]).items
    return [event for event in items if event.type != "job.warning"][-1]


def test_a_failed_job_has_advice_and_a_fix(http, failed):
    error = http.get(failed()).json()["error"]

    assert (error["code"], error["fault"], error["log"]) == ("out_of_memory", "capacity", ["last line"])
    assert error["fix"] == {"training": {"batch_size": 4}}
    assert "keeps the learning rate" in error["advice"]


def test_an_error_of_an_earlier_version_stays_readable(http, server, tenant):
    lease = tenant.running_job()
    with server.database.write() as session:
        jobs.fail(session, lease, {"code": "out_of_memory", "message": "too big"})

    error = http.get(f"/v1/jobs/{lease.job_id}").json()["error"]

    assert (error["code"], error["fault"], error["fix"], error["log"]) == ("out_of_memory", None, None, [])


def test_a_retry_without_a_body_keeps_spec_and_checkpoint(http, server, tenant, failed):
    path = failed()
    before = http.get(path).json()

    job = http.post(f"{path}/retry").json()

    assert (job["status"], job["spec"], job["progress"]["step"]) == ("queued", before["spec"], 3)
    assert last_event(server, tenant, path).message == "Requeued; resumes from the last checkpoint."


def test_the_fix_is_applied_and_the_training_restarts(http, server, tenant, failed):
    path = failed()

    job = http.post(f"{path}/retry", json={"apply_fix": True}).json()

    assert (job["status"], job["spec"]["training"]["batch_size"], job["error"]) == ("queued", 4, None)
    assert (job["progress"]["step"], job["progress"]["total_steps"]) == (0, 40)  # half the batch, twice the steps
    assert http.get(f"{path}/checkpoints").json()["data"] == []
    event = last_event(server, tenant, path)
    assert "training.batch_size 8 → 4" in event.message
    assert "training of the student restarts" in event.message
    assert event.data["restarts"] == ["distill"]  # the teacher's training is reused


def test_a_change_without_effect_on_the_weights_resumes_from_the_checkpoint(http, failed):
    path = failed("worker_lost")

    job = http.post(f"{path}/retry", json={"changes": {"resources": {"max_seconds": 60}, "name": "longer"}}).json()

    assert (job["name"], job["spec"]["resources"]["max_seconds"], job["progress"]["step"]) == ("longer", 60, 3)
    assert len(http.get(f"{path}/checkpoints").json()["data"]) == 1


def test_a_job_of_an_older_version_resumes_although_its_spec_lacks_newer_fields(http, server, tenant, failed):
    path = failed("worker_lost")
    with server.database.write() as session:
        job = jobs.get(session, tenant.project_id, path.rpartition("/")[2])
        training = {name: value for name, value in job.spec["training"].items() if name != "gradient_accumulation"}
        job.spec = {**job.spec, "training": training}

    job = http.post(f"{path}/retry", json={"changes": {"name": "renamed"}}).json()

    assert (job["name"], job["spec"]["training"]["gradient_accumulation"]) == ("renamed", 1)
    assert job["progress"]["step"] == 3


def test_changes_are_applied_after_the_fix(http, failed):
    changes = {"training": {"learning_rate": 0.0005}}

    job = http.post(f"{failed()}/retry", json={"apply_fix": True, "changes": changes}).json()

    assert (job["spec"]["training"]["batch_size"], job["spec"]["training"]["learning_rate"]) == (4, 0.0005)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"apply_fix": "yes"}, "/apply_fix"),
        ({"changes": []}, "/changes"),
        ({"fix": True}, "/fix"),
        ({"changes": {"training": {"batch_size": 0}}}, "/training/batch_size"),
        ({"changes": {"training": {"batchsize": 4}}}, "/training/batchsize"),
        ({"changes": {"dataset": "ds_other"}}, "/dataset"),
        ({"changes": {"student": {"architecture": "deit_tiny_patch16_224"}}}, "/student/architecture"),
        # Found when teacher and student are combined, as for a new job.
        ({"changes": {"training": {"image_size": 7}}}, "/student/arguments/img_size"),
    ],
)
def test_an_invalid_change_is_rejected_and_changes_nothing(http, failed, body, pointer):
    path = failed()
    before = http.get(path).json()

    response = http.post(f"{path}/retry", json=body)

    assert response.status_code == 422, response.text
    assert pointer in pointers(response)
    assert http.get(path).json() == before


def test_apply_fix_without_a_fix_is_422(http, failed):
    response = http.post(f"{failed('worker_lost')}/retry", json={"apply_fix": True})

    assert (response.status_code, pointers(response)) == (422, ["/apply_fix"])


def test_a_queued_job_cannot_be_retried(http, tenant):
    response = http.post(f"/v1/jobs/{tenant.queued_job()}/retry", json={"changes": {"priority": 3}})

    assert (response.status_code, response.json()["code"]) == (409, "invalid_state")


def test_a_job_of_another_project_is_404(http, failed, make_tenant):
    path = failed()

    assert make_tenant().http.post(f"{path}/retry", json={"apply_fix": True}).status_code == 404


def test_max_seconds_beyond_the_limit_of_the_service_is_422(make_server, make_tenant, spec_of):
    tenant = make_tenant(on=make_server(max_job_seconds=60.0))
    spec = spec_of(tenant.ready_dataset(), resources={"max_seconds": 61})
    response = tenant.http.post("/v1/jobs", json=spec)
    assert (response.status_code, pointers(response)) == (422, ["/resources/max_seconds"])

    spec["resources"]["max_seconds"] = 60
    assert tenant.http.post("/v1/jobs", json=spec).status_code == 201
