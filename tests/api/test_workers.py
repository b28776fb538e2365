"""Who is alive."""

from core.store import workers


def test_workers_are_listed_with_what_they_do(http, tenant):
    attempt = tenant.running_job()
    with tenant.database.write() as session:
        made = workers.register(
            session, worker_id="wrk_" + "1" * 26, role="worker", host="h", pid=1, accelerator="cpu", device="CPU"
        )
        workers.record_heartbeat(session, made.id, job_id=attempt.job_id)
    answer = http.get("/v1/workers").json()
    (worker,) = [each for each in answer["data"] if each["id"] == made.id]

    assert (worker["role"], worker["job"], worker["busy"]) == ("worker", attempt.job_id, True)
    assert answer["queues"] is None  # no broker here
    assert set(answer["queued_jobs"]) == {"auto", "cpu", "cuda"}


def test_the_jobs_of_other_projects_stay_theirs(http, make_tenant):
    other = make_tenant()
    attempt = other.running_job()
    with other.database.write() as session:
        made = workers.register(session, worker_id="wrk_" + "2" * 26, role="worker", host="h", pid=2)
        workers.record_heartbeat(session, made.id, job_id=attempt.job_id)
    (worker,) = [each for each in http.get("/v1/workers").json()["data"] if each["id"] == made.id]

    assert (worker["job"], worker["busy"]) == (None, True)
