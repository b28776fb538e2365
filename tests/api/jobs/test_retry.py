"""A retry with another spec, over HTTP."""

import pytest

from core.job_failure import FailureCause
from core.store import events, jobs
from core.store.jobs import LeaseToken


@pytest.fixture
def failed(http, server, tenant, spec_of, tmp_path):
    """Fails a new job with a code, behind a checkpoint at step 3; its path."""

    def make(code="out_of_memory"):
        spec = spec_of(tenant.ready_dataset(), training={"epochs": 2, "batch_size": 8, "image_size": 8})
        job_id = http.post("/v1/jobs", json=spec).json()["id"]
        with server.database.write() as session:
            job = jobs.claim(session, worker_id="wrk_x", accelerator="cpu", lease_seconds=600)
            while job.id != job_id:  # another test's
                job = jobs.claim(session, worker_id="wrk_x", accelerator="cpu", lease_seconds=600)
        attempt = LeaseToken.of(job)
        tenant.checkpoint(attempt, tmp_path, 3)
        with server.database.write() as session:
            job = jobs.current(session, attempt)
            cause = FailureCause(code, "it happened", "capacity", log=["last line"], machine=None)
            error = cause.document(spec=job.spec, stage="distill", fraction=0.5)
            jobs.fail(session, attempt, error)
        return f"/v1/jobs/{job_id}"

    return make


def pointers(answer):
    return [error["pointer"] for error in answer.json()["errors"]]


def last_event(server, tenant, path):
    with server.database.read() as session:
        return events.list_events(session, tenant.project_id, path.rpartition("/")[2]).items[-1]


def test_a_failed_job_says_what_would_help(http, failed):
    error = http.get(failed()).json()["error"]

    assert (error["code"], error["fault"], error["log"]) == ("out_of_memory", "capacity", ["last line"])
    assert error["fix"] == {"training": {"batch_size": 4}}
    assert "keeps the learning rate" in error["advice"]


def test_a_job_that_failed_under_an_earlier_version_is_readable(http, server, tenant):
    attempt = tenant.running_job()
    with server.database.write() as session:
        jobs.fail(session, attempt, {"code": "out_of_memory", "message": "too big"})

    error = http.get(f"/v1/jobs/{attempt.job_id}").json()["error"]

    assert (error["code"], error["fault"], error["fix"], error["log"]) == ("out_of_memory", None, None, [])


def test_without_a_body_everything_stays_as_it_is(http, server, tenant, failed):
    path = failed()
    before = http.get(path).json()

    job = http.post(f"{path}/retry").json()

    assert (job["status"], job["spec"], job["progress"]["step"]) == ("queued", before["spec"], 3)
    assert last_event(server, tenant, path).message == "Queued again, from its last checkpoint."


def test_the_fix_is_applied_and_the_student_begins_anew(http, server, tenant, failed):
    path = failed()

    job = http.post(f"{path}/retry", json={"apply_fix": True}).json()

    assert (job["status"], job["spec"]["training"]["batch_size"], job["error"]) == ("queued", 4, None)
    assert (job["progress"]["step"], job["progress"]["total_steps"]) == (0, 40)  # half the batch, twice the steps
    assert http.get(f"{path}/checkpoints").json()["data"] == []
    told = last_event(server, tenant, path)
    assert "training.batch_size 8 → 4" in told.message
    assert "begins anew" in told.message
    assert told.data["restarts"] == ["distill"]  # what its teacher has learnt is of use


def test_a_change_that_no_bit_depends_on_goes_on_from_the_checkpoint(http, failed):
    path = failed("worker_lost")

    job = http.post(f"{path}/retry", json={"changes": {"resources": {"max_seconds": 60}, "name": "longer"}}).json()

    assert (job["name"], job["spec"]["resources"]["max_seconds"], job["progress"]["step"]) == ("longer", 60, 3)
    assert len(http.get(f"{path}/checkpoints").json()["data"]) == 1


def test_changes_come_on_top_of_the_fix(http, failed):
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
        # Found by bringing teacher and student together, as for a new job.
        ({"changes": {"training": {"image_size": 7}}}, "/student/arguments/img_size"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_changes(http, failed, body, pointer):
    path = failed()
    before = http.get(path).json()

    answer = http.post(f"{path}/retry", json=body)

    assert answer.status_code == 422, answer.text
    assert pointer in pointers(answer)
    assert http.get(path).json() == before


def test_a_fix_that_is_not_known_cannot_be_applied(http, failed):
    answer = http.post(f"{failed('worker_lost')}/retry", json={"apply_fix": True})

    assert (answer.status_code, pointers(answer)) == (422, ["/apply_fix"])


def test_a_job_that_has_not_failed_is_not_changed(http, tenant):
    answer = http.post(f"/v1/jobs/{tenant.queued_job()}/retry", json={"changes": {"priority": 3}})

    assert (answer.status_code, answer.json()["code"]) == (409, "invalid_state")


def test_somebody_elses_job_is_not_there(http, failed, make_tenant):
    path = failed()

    assert make_tenant().http.post(f"{path}/retry", json={"apply_fix": True}).status_code == 404


def test_no_job_may_ask_for_more_time_than_the_service_gives(make_server, make_tenant, spec_of):
    tenant = make_tenant(of=make_server(max_job_seconds=60.0))
    spec = spec_of(tenant.ready_dataset(), resources={"max_seconds": 61})
    answer = tenant.http.post("/v1/jobs", json=spec)
    assert (answer.status_code, pointers(answer)) == (422, ["/resources/max_seconds"])

    spec["resources"]["max_seconds"] = 60
    assert tenant.http.post("/v1/jobs", json=spec).status_code == 201
