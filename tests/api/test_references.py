"""Names and id prefixes in paths, filters and specs."""

from urllib.parse import quote

import pytest
from fastapi import APIRouter, FastAPI

from api.deps import Reader
from api.rate_limit import rate_class
from api.references import JobId
from api.route_checks import check_routes
from core.store import datasets, jobs, models
from core.store.models import ModelInfo
from core.store.tables import Dataset
from worker import inspector  # imports timm before the first request, which has a timeout

assert inspector
NAME = "my pets/2024 100% é?#"


def name_dataset(tenant, dataset_id, name):
    with tenant.database.write() as session:
        session.get(Dataset, dataset_id).name = name


@pytest.fixture
def named(tenant):
    """A ready dataset whose name needs encoding."""
    dataset_id = tenant.ready_dataset()
    name_dataset(tenant, dataset_id, NAME)
    return dataset_id


def add_student(tenant, spec, name):
    """Add a succeeded job with a student; return the ids of both."""
    with tenant.database.write() as session:
        job = jobs.create(
            session, tenant.project_id, spec=spec, resolved=True, dataset_id=spec["dataset"], name=name, priority=100
        )
    with tenant.database.write() as session:
        claimed = jobs.claim(session, worker_id="wrk_test", accelerator="cpu", lease_seconds=600)
        while claimed.id != job.id:  # a job of another test
            claimed = jobs.claim(session, worker_id="wrk_test", accelerator="cpu", lease_seconds=600)
        lease = jobs.LeaseToken.from_job(claimed)
        info = ModelInfo(
            architecture="vit_tiny_patch16_224",
            arguments={**spec["student"]["arguments"], "num_classes": 3, "in_chans": 3},
            num_classes=3,
            channels=3,
            image_size=8,
            parameters=1,
            size_bytes=4,
        )
        student = models.create_student(session, lease, name=name, info=info, files=[])
        metrics = {"top1": 0.9}
        result = {"student": metrics, "teachers": [], "compressed": [], "agreement": None}
        jobs.succeed(session, lease, result=result, artifacts=[], model_id=student.id)
        return job.id, student.id


class TestPaths:
    def test_a_dataset_is_read_and_deleted_by_its_encoded_name(self, http, named):
        path = f"/v1/datasets/{quote(NAME, safe='')}"

        assert http.get(path).json()["id"] == named
        assert http.delete(path).status_code == 204
        assert http.get(f"/v1/datasets/{named}").status_code == 404
        log = http.get("/v1/audit-log", params={"action": "dataset.delete"}).json()["data"]
        assert log[0]["object_id"] == named, "the audit log has the full id"

    def test_every_route_of_a_job_takes_its_name_and_its_prefix(self, http, tenant, tmp_path):
        lease = tenant.running_job()
        checkpoint = tenant.checkpoint(lease, tmp_path, 5)
        tenant.succeed(lease, tmp_path)
        for job in ("small", lease.job_id[:-1]):
            assert http.get(f"/v1/jobs/{job}").json()["id"] == lease.job_id
            for path in (
                "?wait=1",
                "/events",
                "/logs",
                "/metrics",
                "/checkpoints",
                f"/checkpoints/{checkpoint.id}/model.safetensors",
                "/artifacts",
                "/artifacts/config.json",
                "/download",
            ):
                assert http.get(f"/v1/jobs/{job}{path}").status_code == 200, path
            assert http.post(f"/v1/jobs/{job}/stop").json()["id"] == lease.job_id
        stream = http.get("/v1/jobs/small/events", headers={"Accept": "text/event-stream"})
        assert "job.succeeded" in stream.text
        assert http.get("/jobs/small", headers={"Accept": "text/html"}).status_code == 200

    def test_an_ambiguous_name_is_409_with_the_candidates(self, http, tenant):
        first, second = tenant.queued_job(), tenant.queued_job()
        response = http.post("/v1/jobs/small/cancel")
        problem = response.json()

        assert (response.status_code, problem["code"]) == (409, "ambiguous_reference")
        assert [candidate["id"] for candidate in problem["candidates"]] == [second, first]
        assert first in problem["detail"]
        assert http.get(f"/v1/jobs/{first}").json()["status"] == "queued"

    def test_an_unknown_name_is_404_with_the_nearest(self, http, tenant):
        tenant.queued_job()
        response = http.get("/v1/jobs/smal")

        assert response.status_code == 404
        assert "Did you mean small?" in response.json()["detail"]

    def test_names_of_other_projects_are_unknown(self, http, tenant, make_tenant):
        tenant.queued_job()
        response = make_tenant().http.get("/v1/jobs/small")

        assert response.status_code == 404
        assert "Did you mean" not in response.json()["detail"]

    def test_an_encoded_slash_separates_no_segments(self, http, tenant):
        tenant.queued_job()

        assert http.get("/v1/jobs/small%2Fevents").status_code == 404
        assert "'small/events'" in http.get("/v1/jobs/small%2fevents").json()["detail"]
        assert http.get("/v1%2Fjobs").status_code == 404


class TestSpecs:
    def test_the_stored_spec_has_full_ids(self, http, tenant, spec_of, named):
        spec = spec_of(named)
        job_id, student_id = add_student(tenant, spec, "first student")
        teacher = {"architecture": "vit_tiny_patch16_224", "weights": "first student"}
        student = {**spec["student"], "weights": job_id[:-1]}
        document = {**spec, "dataset": NAME, "teachers": [teacher], "student": student, "name": "second"}
        response = http.post("/v1/jobs", json=document)

        assert response.status_code == 201, response.text
        stored = response.json()["spec"]
        assert (stored["dataset"], stored["teachers"][0]["weights"], stored["student"]["weights"]) == (
            named,
            student_id,
            job_id,
        )
        assert http.post("/v1/estimates", json=document).status_code == 200
        assert http.delete(f"/v1/datasets/{named}").json()["code"] == "in_use"

    def test_a_repeated_request_gets_the_first_response_although_the_name_is_ambiguous_now(
        self, http, tenant, spec_of, named
    ):
        spec, headers = {**spec_of(named), "dataset": NAME}, {"Idempotency-Key": "by-name"}
        first = http.post("/v1/jobs", json=spec, headers=headers)
        name_dataset(tenant, tenant.ready_dataset(), NAME)
        again = http.post("/v1/jobs", json=spec, headers=headers)
        ambiguous = http.post("/v1/jobs", json=spec).json()

        assert (again.status_code, again.json()) == (201, first.json())
        assert ambiguous["code"] == "ambiguous_reference"
        assert [error["pointer"] for error in ambiguous["errors"]] == ["/dataset"]
        assert len(ambiguous["candidates"]) == 2

    def test_a_further_dataset_may_be_a_name(self, http, tenant, spec_of):
        spec = spec_of(tenant.ready_dataset())
        response = http.post("/v1/jobs", json={**spec, "method": {"name": "attention_probe", "pool": "nothing"}})

        unlabeled = tenant.ready_dataset()
        name_dataset(tenant, unlabeled, "more-images")
        stored = http.post("/v1/jobs", json={**spec, "unlabeled_dataset": "more-images"}).json()["spec"]

        assert stored["unlabeled_dataset"] == unlabeled
        assert [error["pointer"] for error in response.json()["errors"]] == ["/method/pool"]
        assert "Did you mean" not in response.json()["detail"]

    def test_unknown_references_name_their_fields(self, http, tenant, spec_of):
        spec = spec_of(tenant.ready_dataset())
        student = {**spec["student"], "weights": "pretraned"}
        response = http.post("/v1/jobs", json={**spec, "dataset": "redy", "student": student})
        errors = {error["pointer"]: error["detail"] for error in response.json()["errors"]}

        assert (response.status_code, response.json()["code"]) == (422, "invalid_spec")
        assert "Did you mean ready?" in errors["/dataset"]
        assert "Did you mean pretrained" in errors["/student/weights"]

    @pytest.mark.parametrize("name", ["random", "pretrained", "train", "job_01jd3v5n8e6f7g8h9jkmnpqrst"])
    def test_a_job_cannot_have_a_name_that_means_something_else(self, http, tenant, spec_of, name):
        response = http.post("/v1/jobs", json={**spec_of(tenant.ready_dataset()), "name": name})

        assert (response.status_code, response.json()["code"]) == (422, "invalid_spec")
        assert [error["pointer"] for error in response.json()["errors"]] == ["/name"]


def test_a_dataset_cannot_have_the_form_of_an_id_as_its_name(http):
    body = {"name": "ds_01jd3v5n8e6f7g8h9jkmnpqrst", "source": {"type": "builtin", "name": "digits"}}

    assert http.post("/v1/datasets", json=body).json()["errors"][0]["pointer"] == "/name"
    assert http.post("/v1/datasets", json={**body, "name": "random"}).status_code == 202


def test_the_audit_log_is_filtered_by_name_and_by_the_id_of_a_deleted_object(http, tenant):
    body = {"name": "logged", "source": {"type": "builtin", "name": "digits"}}
    dataset_id = http.post("/v1/datasets", json=body).json()["id"]

    def entries(text):
        return http.get("/v1/audit-log", params={"object_id": text}).json()["data"]

    assert [entry["object_id"] for entry in entries("logged")] == [dataset_id]
    with tenant.database.write() as session:
        datasets.delete(session, tenant.project_id, dataset_id)
    assert entries("logged") == []
    assert [entry["object_id"] for entry in entries(dataset_id)] == [dataset_id]


def test_a_route_that_takes_a_reference_before_its_caller_is_refused():
    router = APIRouter()

    @router.get("/v1/things/{job_id}")
    @rate_class("reads")
    def get_thing(job_id: JobId, caller: Reader) -> None:
        """A route with its parameters in the wrong order."""

    app = FastAPI()
    app.include_router(router)
    with pytest.raises(RuntimeError, match="before its caller"):
        check_routes(app.routes)
