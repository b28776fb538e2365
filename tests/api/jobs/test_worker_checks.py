"""New jobs against the live workers: memory, accelerator, devices; and why a job waits."""

import pytest

from api.jobs.worker_checks import worker_warnings
from core.spec import parse_job_spec
from core.store import workers
from core.store.workers import Capacity

GIGABYTE = 10**9


@pytest.fixture
def own_server(make_server):
    return make_server()


@pytest.fixture
def tenant(make_tenant, own_server):
    return make_tenant(on=own_server)


@pytest.fixture
def add_worker(tenant):
    """Register a live job worker."""
    count = iter(range(100))

    def add(accelerator="cpu", *, job_id=None, **details):
        worker_id = f"wrk_{next(count):026d}"
        with tenant.database.write() as session:
            workers.register(
                session, worker_id=worker_id, role="worker", host="h", pid=1, accelerator=accelerator, details=details
            )
            workers.record_heartbeat(session, worker_id, job_id=job_id)

    return add


def spec_with(tenant, spec_of, *, batch_size=16, **resources):
    spec = spec_of(tenant.ready_dataset(splits={"train": {"num_samples": 10**6}, "test": {"num_samples": 20}}))
    return {**spec, "training": {**spec["training"], "batch_size": batch_size}, "resources": resources}


def test_a_job_that_exceeds_the_largest_worker_is_refused_with_the_batch_size_that_fits(tenant, spec_of, add_worker):
    add_worker(memory_bytes=GIGABYTE)
    add_worker(memory_bytes=2 * GIGABYTE)
    spec = spec_with(tenant, spec_of, batch_size=65_536)
    response = tenant.http.post("/v1/jobs", json=spec)
    estimate = tenant.http.post("/v1/estimates", json=spec).json()
    (error,) = response.json()["errors"]
    fitting = int(error["detail"].rstrip(".").rsplit(" ", 1)[1])
    spec["training"]["batch_size"] = fitting

    assert (response.status_code, response.json()["code"]) == (422, "invalid_spec")
    assert error["pointer"] == "/training/batch_size"
    assert "its workers have 2.0 GB" in error["detail"]
    assert [w["code"] for w in estimate["warnings"] if w["code"] == "exceeds_memory"] == ["exceeds_memory"]
    assert tenant.http.post("/v1/jobs", json=spec).status_code == 201


def test_without_a_live_worker_it_is_only_a_warning(make_server, make_tenant, spec_of):
    tenant = make_tenant(on=make_server(job_memory_bytes=GIGABYTE))
    response = tenant.http.post("/v1/jobs", json=spec_with(tenant, spec_of, batch_size=65_536))

    assert response.status_code == 201
    assert "exceeds_memory" in {warning["code"] for warning in response.json()["warnings"]}


def test_a_worker_of_unknown_size_refuses_nothing(tenant, spec_of, add_worker):
    add_worker(memory_bytes=GIGABYTE)
    add_worker()

    assert tenant.http.post("/v1/jobs", json=spec_with(tenant, spec_of, batch_size=65_536)).status_code == 201


def test_a_job_without_a_worker_for_its_accelerator_has_a_reason_to_wait(tenant, spec_of, add_worker):
    add_worker(memory_bytes=GIGABYTE)
    spec = spec_with(tenant, spec_of, accelerator="cuda")
    estimate = tenant.http.post("/v1/estimates", json=spec).json()
    job = tenant.http.post("/v1/jobs", json=spec).json()
    events = tenant.http.get(f"/v1/jobs/{job['id']}/events").json()["data"]

    (warning,) = [warning for warning in job["warnings"] if warning["code"] == "no_worker"]
    assert warning in estimate["warnings"]
    assert warning["field"] == "/resources/accelerator"
    assert "set accelerator to auto" in warning["fix"]
    assert job["waiting_reason"] == "No cuda worker is alive."
    assert [event["type"] for event in events if event["data"].get("code") == "no_worker"] == ["job.warning"]
    listed = tenant.http.get("/v1/jobs").json()["data"][0]
    assert listed["waiting_reason"] == tenant.http.get(f"/v1/jobs/{job['id']}").json()["waiting_reason"]

    add_worker("cuda", memory_bytes=80 * GIGABYTE, devices=1)
    assert tenant.http.get(f"/v1/jobs/{job['id']}").json()["waiting_reason"] is None


def test_a_job_behind_busy_workers_has_a_reason_to_wait(tenant, add_worker):
    add_worker(job_id="job_x")
    job_id = tenant.queued_job()

    assert tenant.http.get(f"/v1/jobs/{job_id}").json()["waiting_reason"] == "Every worker is busy (1)."


def test_workers_show_their_memory_and_devices(tenant, add_worker):
    add_worker("cuda", memory_bytes=80 * GIGABYTE, devices=4)
    (worker,) = tenant.http.get("/v1/workers").json()["data"]

    assert (worker["memory_bytes"], worker["devices"]) == (80 * GIGABYTE, 4)


@pytest.mark.parametrize(
    ("resources", "capacity", "code"),
    [
        ({"accelerator": "cuda"}, Capacity(0), "no_worker"),
        ({"accelerator": "cpu"}, Capacity(0), "no_worker"),
        ({"accelerator": "auto"}, Capacity(0), None),
        ({"accelerator": "cuda"}, Capacity(1, devices=1), None),
        ({"accelerator": "cuda", "devices": 4}, Capacity(2, devices=2), "too_few_devices"),
        ({"accelerator": "cuda", "devices": 4}, Capacity(2, devices=None), None),
        ({"accelerator": "cpu", "devices": 4}, Capacity(1), None),
    ],
)
def test_warnings_about_workers(resources, capacity, code):
    document = {"dataset": "ds_1", "student": {"architecture": "v"}, "method": {"name": "scratch"}}
    warnings = worker_warnings(parse_job_spec({**document, "resources": resources}), capacity)

    assert [warning.code for warning in warnings] == ([code] if code else [])
