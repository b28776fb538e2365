"""Quotas over HTTP, and what a project has."""

import pytest

from core.store.project_tables import Project


@pytest.fixture
def limit(server, tenant):
    """Give the tenant's project limits of its own."""

    def give(**limits):
        with server.database.write() as session:
            project = session.get(Project, tenant.project_id)
            for name, value in limits.items():
                setattr(project, name, value)

    return give


def upload(http, content, name="file"):
    return http.post("/v1/datasets", files={"file": (f"{name}.zip", content)})


def test_usage_says_what_there_is_and_may_be(tenant, http, server, limit):
    assert http.get("/v1/usage").json() == {
        "object": "usage",
        "jobs": {"used": 0, "limit": 10_000},
        "stored_bytes": {"used": 0, "limit": None},
        "max_upload_bytes": server.settings.max_upload_bytes,
        "requests_per_minute": {
            "reads": 60_000,
            "writes": 6_000,
            "jobs": 1_200,
            "uploads": 600,
            "questions": 1_200,
        },
    }

    tenant.queued_job()
    limit(max_jobs=5, max_stored_bytes=9_000, max_upload_bytes=700)
    found = http.get("/v1/usage").json()

    assert (found["jobs"], found["max_upload_bytes"]) == ({"used": 1, "limit": 5}, 700)
    assert found["stored_bytes"] == {"used": 1000, "limit": 9_000}


def test_one_job_too_many_is_403_and_says_how_to_make_room(tenant, http, limit, spec_of):
    spec = spec_of(tenant.ready_dataset())
    limit(max_jobs=1)
    first, second = (http.post("/v1/jobs", json=spec) for _ in range(2))

    assert (first.status_code, second.status_code) == (201, 403)
    problem = second.json()
    assert (problem["code"], problem["quota"], problem["limit"], problem["used"]) == ("quota_exceeded", "jobs", 1, 1)
    assert "cancel some" in problem["detail"]
    assert "Retry-After" not in second.headers

    http.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert http.post("/v1/jobs", json=spec).status_code == 201
    retried = http.post(f"/v1/jobs/{first.json()['id']}/retry")
    assert (retried.status_code, retried.json()["code"]) == (403, "quota_exceeded")
    assert http.get(f"/v1/jobs/{first.json()['id']}").json()["status"] == "cancelled"


def test_a_refused_request_may_be_sent_again_with_its_key(tenant, http, limit, spec_of):
    spec = spec_of(tenant.ready_dataset())
    headers = {"Idempotency-Key": "one-too-many"}
    limit(max_stored_bytes=999)
    assert http.post("/v1/jobs", json=spec, headers=headers).status_code == 403

    limit(max_stored_bytes=1000)
    assert http.post("/v1/jobs", json=spec, headers=headers).status_code == 201


def test_stored_bytes_are_limited(http, limit, zip_of):
    content = zip_of({f"a/{n}.jpg": b"x" * 300 for n in range(3)})
    limit(max_stored_bytes=len(content) + 10)
    first, second = (upload(http, content) for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 403), second.text
    assert first.json()["size_bytes"] == len(content)
    assert second.json()["used"] == 2 * len(content)
    assert http.get("/v1/usage").json()["stored_bytes"]["used"] == len(content)
    assert len(http.get("/v1/datasets").json()["data"]) == 1

    http.delete(f"/v1/datasets/{first.json()['id']}")
    assert http.get("/v1/usage").json()["stored_bytes"]["used"] == 0
    assert upload(http, content).status_code == 202


def test_a_job_that_runs_goes_on_beyond_the_quota_and_a_new_one_is_refused(tenant, http, limit, spec_of, tmp_path):
    attempt = tenant.running_job()
    spec = spec_of(tenant.ready_dataset())
    used = http.get("/v1/usage").json()["stored_bytes"]["used"]
    limit(max_stored_bytes=used)
    assert http.post("/v1/jobs", json=spec).status_code == 201

    saved = sum(file["size_bytes"] for step in (1, 2) for file in tenant.checkpoint(attempt, tmp_path, step).files)
    assert http.get("/v1/usage").json()["stored_bytes"] == {"used": used + saved, "limit": used}
    refused = http.post("/v1/jobs", json=spec)
    assert (refused.status_code, refused.json()["quota"]) == (403, "stored_bytes")
    assert "with its checkpoints" in refused.json()["detail"]

    tenant.succeed(attempt, tmp_path)
    assert http.get(f"/v1/jobs/{attempt.job_id}").json()["status"] == "succeeded"
    http.delete(f"/v1/jobs/{attempt.job_id}")
    assert http.post("/v1/jobs", json=spec).status_code == 201


def test_a_project_that_is_full_need_not_send_anything(tenant, http, limit, zip_of):
    tenant.ready_dataset()
    limit(max_stored_bytes=1)

    for path in ("/v1/datasets", "/v1/models"):
        answer = http.post(path, files={"file": ("x", b"")})
        assert (answer.status_code, answer.json()["code"]) == (403, "quota_exceeded")


def test_an_upload_is_limited_by_the_project_too(http, limit, zip_of):
    content = zip_of({"a/1.jpg": b"x" * 300})
    limit(max_upload_bytes=100)
    answer = upload(http, content)

    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert "100 bytes" in answer.json()["detail"]
