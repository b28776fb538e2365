"""``/v1/sweeps``: checked as a whole, created as a whole, followed through its jobs."""

import pytest

from core.store import jobs
from core.store.jobs import LeaseToken


@pytest.fixture
def request_of(tenant, spec_of):
    """Build a request with the grid of epochs 1 and 2."""

    def build(**changes):
        spec = {name: value for name, value in spec_of(tenant.ready_dataset()).items() if name != "name"}
        spec["training"] = {"batch_size": 16, "image_size": 8}
        return {"name": "tune", "spec": spec, "grid": {"training.epochs": [1, 2]}, **changes}

    return build


@pytest.fixture
def create(http, request_of):
    def post(**changes):
        response = http.post("/v1/sweeps", json=request_of(**changes))
        assert response.status_code == 201, response.text
        return response.json()

    return post


def succeed(tenant, job_id, *, top1, size_bytes, latency_ms, compressed=()):
    """Run a queued job of the sweep to its end."""
    figures = {"top1": top1, "top5": 1.0, "parameters": size_bytes // 4, "flops": 1e6, "size_bytes": size_bytes}
    result = {"student": {**figures, "latency_ms": latency_ms}, "teachers": [], "agreement": None}
    with tenant.database.write() as session:
        while (job := jobs.claim(session, worker_id="w", accelerator="cpu", lease_seconds=600)).id != job_id:
            pass  # a job of another test
        lease = LeaseToken.from_job(job)
        jobs.succeed(session, lease, result={**result, "compressed": list(compressed)}, artifacts=[])


def test_a_sweep_creates_a_job_for_each_combination(create, http, tenant):
    grid = {"training.epochs": [1, 2], "method.temperature": [1.0, 4.0]}
    sweep = create(grid=grid)

    assert (sweep["object"], sweep["status"], sweep["num_jobs"], sweep["counts"]["queued"]) == ("sweep", "queued", 4, 4)
    assert (sweep["fields"], sweep["grid"]) == (list(grid), grid)
    assert [job["values"] for job in sweep["jobs"]] == [
        {"training.epochs": epochs, "method.temperature": temperature}
        for epochs in (1, 2)
        for temperature in (1.0, 4.0)
    ]
    listed = http.get("/v1/jobs", params={"sweep": sweep["id"]}).json()["data"]
    assert {job["id"] for job in listed} == {job["id"] for job in sweep["jobs"]}
    job = next(job for job in listed if job["id"] == sweep["jobs"][1]["id"])
    assert (job["name"], job["sweep"]) == ("tune epochs=1 temperature=4", sweep["id"])
    assert (job["spec"]["training"]["epochs"], job["spec"]["method"]["temperature"]) == (1, 4.0)
    assert job["progress"]["total_steps"] == 5  # resolved
    assert http.get("/v1/sweeps").json()["data"][0]["id"] == sweep["id"]
    assert tenant.server.broker.was_sent("jobs:auto")


def test_the_fronts_follow_from_the_results(create, http, tenant):
    sweep = create(grid={"training.epochs": [1, 2, 3]})
    first, second, third = (job["id"] for job in sweep["jobs"])
    int8 = {"artifact": "model.int8.onnx", "top1": 0.69, "size_bytes": 100, "latency_ms": 1.0}
    succeed(tenant, first, top1=0.7, size_bytes=400, latency_ms=2.0, compressed=[int8])
    succeed(tenant, second, top1=0.9, size_bytes=800, latency_ms=3.0)
    succeed(tenant, third, top1=0.8, size_bytes=800, latency_ms=1.5)

    found = http.get(f"/v1/sweeps/{sweep['id']}").json()

    assert (found["status"], found["terminal"], found["progress"]["fraction"]) == ("finished", True, 1.0)
    assert found["finished_at"] is not None
    fronts = {cost: [(p["job"], p["artifact"]) for p in points] for cost, points in found["fronts"].items()}
    assert fronts["size_bytes"] == [(first, "model.int8.onnx"), (first, None), (second, None)]
    assert fronts["parameters"] == [(first, None), (second, None)]
    assert fronts["latency_ms"] == [(first, "model.int8.onnx"), (third, None), (second, None)]
    assert found["jobs"][0]["compressed"][0]["top1"] == 0.69


def test_files_of_different_datasets_are_not_compared(create, http, tenant):
    sweep = create(grid={"dataset": [tenant.ready_dataset(), tenant.ready_dataset()]})
    for job, top1 in zip(sweep["jobs"], (0.5, 0.9), strict=True):
        succeed(tenant, job["id"], top1=top1, size_bytes=400, latency_ms=1.0)

    assert len(http.get(f"/v1/sweeps/{sweep['id']}").json()["fronts"]["size_bytes"]) == 2


@pytest.mark.parametrize(
    ("changes", "code", "pointer", "text"),
    [
        ({"grid": {"training.epochs": [1, 0]}}, "invalid_spec", "/grid/training.epochs/1", "job 2 (epochs=0)"),
        (
            {"grid": {"method.name": ["kd", "kdd"]}},
            "invalid_spec",
            "/grid/method.name/1",
            "there is no method 'kdd'",
        ),
        ({"grid": {"training.epochs": [1, 2], "training.image_sice": [8]}}, "invalid_spec", None, "all jobs: unknown"),
        (
            {"grid": {"student.arguments.embed_dim": [32, 33]}},
            "invalid_spec",
            "/grid/student.arguments.embed_dim/1",
            "job 2 (embed_dim=33)",
        ),
        ({"grid": {"training.epochs": [1, 1.0]}}, "invalid_request", "/grid", "same spec as job 1"),
        ({"grid": {"dataset": ["ds_" + "0" * 26]}}, "invalid_spec", "/grid/dataset/0", "there is no dataset"),
        ({"points": [{"method": {"name": "kdd"}}]}, "invalid_spec", "/points/0/method/name", "all jobs"),
        ({"grid": {"training.epochs": "1,2"}}, "invalid_request", "/grid/training.epochs", "list"),
        ({"grid": {"training.seed": list(range(101))}}, "invalid_request", "/grid", "at most 100"),
    ],
)
def test_an_invalid_job_refuses_the_sweep(http, request_of, changes, code, pointer, text):
    response = http.post("/v1/sweeps", json=request_of(**changes))

    assert (response.status_code, response.json()["code"]) == (422, code), response.text
    assert text.lower() in response.text.lower()
    assert pointer is None or response.json()["errors"][0]["pointer"] == pointer
    assert http.get("/v1/jobs").json()["data"] == http.get("/v1/sweeps").json()["data"] == []


def test_a_repeated_request_creates_one_sweep(http, request_of):
    body = request_of()
    first, second = (http.post("/v1/sweeps", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert second.headers["Idempotent-Replayed"] == "true"
    assert first.json() == second.json()
    assert len(http.get("/v1/jobs").json()["data"]) == 2


def test_a_sweep_counts_against_the_quota_as_a_whole(make_server, spec_of):
    tenant = make_server(quota_jobs=3).tenant()
    with tenant.http as http:
        body = {"spec": spec_of(tenant.ready_dataset()), "grid": {"training.epochs": [1, 2]}}
        assert http.post("/v1/sweeps", json=body).status_code == 201
        refused = http.post("/v1/sweeps", json=body)

        assert (refused.status_code, refused.json()["used"], refused.json()["limit"]) == (403, 2, 3)
        assert len(http.get("/v1/jobs").json()["data"]) == 2


def test_cancel_and_delete(create, http):
    sweep = create()
    cancelled = http.post(f"/v1/sweeps/{sweep['id']}/cancel").json()

    assert (cancelled["status"], cancelled["counts"]["cancelled"]) == ("finished", 2)
    assert http.delete(f"/v1/sweeps/{sweep['id']}").status_code == 204
    assert http.get(f"/v1/sweeps/{sweep['id']}").status_code == 404
    job = http.get(f"/v1/jobs/{sweep['jobs'][0]['id']}").json()
    assert (job["status"], job["sweep"]) == ("cancelled", None)


def test_the_estimate_counts_shared_teachers_once(http, request_of):
    body = request_of(grid={"method.temperature": [1.0, 2.0, 4.0], "training.views": [1]})
    sweep = http.post("/v1/sweeps/estimate", json=body).json()
    own = http.post("/v1/estimates", json={**body["spec"], "training": {**body["spec"]["training"], "views": 1}}).json()
    shared = own["teacher_cache"]["seconds"] + own["teacher_trainings"][0]["seconds"]

    assert shared > 0
    assert sweep["shared_seconds"] == pytest.approx(2 * shared, abs=0.2)
    assert sweep["seconds"] == pytest.approx(3 * own["seconds"] - 2 * shared, abs=0.5)
    assert [job["values"]["method.temperature"] for job in sweep["jobs"]] == [1.0, 2.0, 4.0]
    assert http.get("/v1/sweeps").json()["data"] == []
