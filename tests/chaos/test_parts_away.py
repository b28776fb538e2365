"""A broker or a database that is away for a while costs nobody a job."""

import time

import pytest

from core.store.storage_url import open_store
from tests.chaos.logs import assert_no_gap
from tests.chaos.parts import Parts
from tests.chaos.specs import STEPS_PER_EPOCH, small_job
from tests.support.waiting import until

EPOCHS = 120
AWAY_SECONDS = 8.0  # of the database: twice a lease


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    running = Parts(tmp_path_factory.mktemp("parts"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def dataset(parts):
    asked = parts.http.post("/v1/datasets", json={"name": "digits", "source": {"type": "builtin", "name": "digits"}})
    path = f"/v1/datasets/{asked.json()['id']}"
    until(lambda: parts.http.get(path).json()["status"] == "ready", 60, "the dataset is not ready")
    return asked.json()["id"]


@pytest.fixture(scope="module")
def calm(parts, dataset):
    """The job of the first test, which nothing disturbs once it runs."""
    parts.broker.kill()
    answer = parts.http.post("/v1/jobs", json=small_job(dataset, epochs=EPOCHS))
    time.sleep(1.0)  # the broker is away when nobody waits for it, too
    status = parts.see(answer.json()["id"])["status"]
    parts.broker.start()
    return answer, status, parts.finished(answer.json()["id"])


def test_a_job_is_accepted_without_a_broker_and_starts_when_it_is_back(calm):
    answer, status_meanwhile, job = calm

    assert answer.status_code == 201, answer.text
    assert answer.elapsed.total_seconds() < 3
    assert status_meanwhile == "queued"
    assert (job["status"], job["attempt"]) == ("succeeded", 1), job["error"]


def published(parts, job):
    """Checkpoints whose files are in the store, listed or not."""
    store = open_store(f"file://{parts.home}/artifacts")
    return {one.key.split("/")[-2] for one in store.list_prefix(f"jobs/{job}") if "/checkpoints/" in one.key}


AWAY = {
    "killed": (lambda database: database.kill(), lambda database: database.start()),
    "standing still": (lambda database: database.stand_still(), lambda database: database.go_on()),
}


@pytest.mark.parametrize("how", AWAY)
def test_a_running_job_trains_on_while_the_database_is_away_and_catches_up(parts, dataset, calm, how):
    leave, come_back = AWAY[how]
    _, _, undisturbed = calm
    job = parts.http.post("/v1/jobs", json=small_job(dataset, epochs=EPOCHS)).json()["id"]
    until(lambda: parts.see(job)["progress"]["step"] > 60, 60, "the job does not train")
    before = parts.see(job)
    assert (before["status"], before["stage"]) == ("running", "distill")
    saved_before = published(parts, job)
    leave(parts.database)
    gone_at = time.monotonic()
    refused = [parts.http.get(f"/v1/jobs/{job}"), parts.http.post("/v1/jobs", json=small_job(dataset, epochs=1))]
    until(lambda: published(parts, job) - saved_before, 30, "no checkpoint while the database was away")
    time.sleep(max(0.0, gone_at + AWAY_SECONDS - time.monotonic()))
    come_back(parts.database)
    done = parts.finished(job)

    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.elapsed.total_seconds() < 12  # the limit of a statement, its grace, and one more connection
    assert (done["status"], done["attempt"]) == ("succeeded", 1), done["error"]
    events = parts.events(job)
    assert_no_gap(events)
    saved = [event["data"]["step"] for event in events if event["type"] == "checkpoint.saved"]
    assert saved == sorted(set(saved))
    every = [step for step, _ in parts.losses(job)]
    assert every[:1000] == list(range(1, 1001))  # each is logged up to here
    assert every[-1] == EPOCHS * STEPS_PER_EPOCH
    assert parts.losses(job) == parts.losses(undisturbed["id"])
    assert parts.student(job) == parts.student(undisturbed["id"])


def test_a_request_is_answered_again_as_soon_as_the_database_is_back(parts, calm):
    parts.database.kill()
    assert parts.http.get("/v1/jobs").status_code == 503
    parts.database.start()

    until(lambda: parts.http.get("/v1/jobs").status_code == 200, 5, "the API does not find the database again")
