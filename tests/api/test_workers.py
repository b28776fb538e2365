"""The list of workers."""

from core.store import workers


def test_workers_are_listed_with_their_jobs(http, tenant):
    lease = tenant.running_job()
    with tenant.database.write() as session:
        registered = workers.register(
            session, worker_id="wrk_" + "1" * 26, role="worker", host="h", pid=1, accelerator="cpu", device="CPU"
        )
        workers.record_heartbeat(session, registered.id, job_id=lease.job_id)
    response = http.get("/v1/workers").json()
    (worker,) = [row for row in response["data"] if row["id"] == registered.id]

    assert (worker["role"], worker["job"], worker["busy"]) == ("worker", lease.job_id, True)
    assert response["queues"] is None  # no broker here
    assert set(response["queued_jobs"]) == {"auto", "cpu", "cuda"}


def test_jobs_of_other_projects_are_hidden(http, make_tenant):
    other = make_tenant()
    lease = other.running_job()
    with other.database.write() as session:
        registered = workers.register(session, worker_id="wrk_" + "2" * 26, role="worker", host="h", pid=2)
        workers.record_heartbeat(session, registered.id, job_id=lease.job_id)
    (worker,) = [row for row in http.get("/v1/workers").json()["data"] if row["id"] == registered.id]

    assert (worker["job"], worker["busy"]) == (None, True)
