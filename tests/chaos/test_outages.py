"""An outage of the broker or the database loses no job."""

import time

import pytest

from core.store.storage_url import open_store
from tests.chaos.logs import assert_gapless
from tests.chaos.processes import ServiceProcesses
from tests.chaos.specs import STEPS_PER_EPOCH, small_job
from tests.support.api import create_digits, list_all, training_losses, weights_digest
from tests.support.waiting import until, until_resource

pytestmark = pytest.mark.slow  # tests/e2e/test_service.py has an outage of the broker in every run

EPOCHS = 60  # more than 1,000 steps, every one of which is logged
OUTAGE_SECONDS = 8.0  # of the database: two leases


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    processes = ServiceProcesses(tmp_path_factory.mktemp("service"))
    yield processes
    processes.close()


@pytest.fixture(scope="module")
def dataset(service):
    return create_digits(service.http, 60)


@pytest.fixture(scope="module")
def reference(service, dataset):
    """A job that is created without a broker and runs undisturbed: (response, status during the outage, job)."""
    service.broker.kill()
    response = service.http.post("/v1/jobs", json=small_job(dataset, epochs=EPOCHS))
    time.sleep(1.0)  # the outage outlasts the request
    status = service.job(response.json()["id"])["status"]
    service.broker.start()
    return response, status, service.finished_job(response.json()["id"])


def test_a_job_is_accepted_without_a_broker_and_starts_after_the_outage(reference):
    response, status_during_outage, job = reference

    assert response.status_code == 201, response.text
    assert response.elapsed.total_seconds() < 3
    assert status_during_outage == "queued"
    assert (job["status"], job["attempt"]) == ("succeeded", 1), job["error"]


def published_checkpoints(service, job_id):
    """Checkpoints whose files are in the store, with or without a row."""
    store = open_store(f"file://{service.home}/artifacts")
    keys = [stored.key for stored in store.list_prefix(f"jobs/{job_id}")]
    return {key.split("/")[-2] for key in keys if "/checkpoints/" in key}


OUTAGES = {
    "killed": (lambda database: database.kill(), lambda database: database.start()),
    "suspended": (lambda database: database.suspend(), lambda database: database.resume()),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_job_trains_on_during_a_database_outage_and_records_everything_afterwards(
    service, dataset, reference, outage
):
    begin, end = OUTAGES[outage]
    _, _, undisturbed = reference
    job_id = service.http.post("/v1/jobs", json=small_job(dataset, epochs=EPOCHS)).json()["id"]
    before = until_resource(service.http, f"/v1/jobs/{job_id}", lambda job: job["progress"]["step"] > 60, 60)
    assert (before["status"], before["stage"]) == ("running", "distill")
    published_before = published_checkpoints(service, job_id)
    begin(service.database)
    began_at = time.monotonic()
    responses = [
        service.http.get(f"/v1/jobs/{job_id}"),
        service.http.post("/v1/jobs", json=small_job(dataset, epochs=1)),
    ]
    until(
        lambda: published_checkpoints(service, job_id) - published_before,
        30,
        "no checkpoint was published during the outage",
    )
    time.sleep(max(0.0, began_at + OUTAGE_SECONDS - time.monotonic()))
    end(service.database)
    job = service.finished_job(job_id)

    for response in responses:
        assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert response.elapsed.total_seconds() < 12  # statement timeout, its grace period, and one reconnection
    assert (job["status"], job["attempt"]) == ("succeeded", 1), job["error"]
    events = list_all(service.http, f"/v1/jobs/{job_id}/events")
    assert_gapless(events)
    saved_steps = [event["data"]["step"] for event in events if event["type"] == "checkpoint.saved"]
    assert saved_steps == sorted(set(saved_steps))
    losses = training_losses(service.http, job_id)
    steps = [step for step, _ in losses]
    assert steps[:1000] == list(range(1, 1001))  # every one of the first 1,000 steps is logged
    assert steps[-1] == EPOCHS * STEPS_PER_EPOCH
    assert losses == training_losses(service.http, undisturbed["id"])
    assert weights_digest(service.http, job_id) == weights_digest(service.http, undisturbed["id"])


def test_the_api_reconnects_as_soon_as_the_database_is_back(service, reference):
    service.database.kill()
    assert service.http.get("/v1/jobs").status_code == 503
    service.database.start()

    until(lambda: service.http.get("/v1/jobs").status_code == 200, 5, "the API did not reconnect")
