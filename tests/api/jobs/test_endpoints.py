"""Job endpoints: create, list, actions, delete, estimate."""

import threading
import time
import uuid

import httpx
import pytest

from api.jobs import service
from core.broker import Broker, InspectorTimeout
from core.spec import parse_job_spec
from core.store import events, jobs, teachers
from tests.api.conftest import InProcessBroker
from worker import inspector


@pytest.fixture
def spec(tenant, spec_of):
    return spec_of(tenant.ready_dataset())


def pointers(response):
    return [error["pointer"] for error in response.json()["errors"]]


class TestCreate:
    def test_the_job_is_queued_with_all_defaults(self, server, http, spec):
        response = http.post("/v1/jobs", json=spec)
        job = response.json()

        assert response.status_code == 201
        assert job["id"].startswith("job_")
        assert (job["status"], job["terminal"], job["attempt"]) == ("queued", False, 0)
        assert set(job["next_actions"]) == {"cancel", "pause"}
        assert job["spec"]["teachers"][0]["training"]["epochs"] == 200  # the dataset is small
        assert job["spec"]["training"]["seed"] == 0
        assert job["spec"]["resources"]["threads"] == server.settings.job_threads
        assert job["progress"]["total_steps"] == 10
        assert job["created_at"].endswith("Z")
        assert job["result"] is None
        assert http.get(f"/v1/jobs/{job['id']}").json() == job

    def test_a_chain_and_a_chosen_method_are_stored_resolved(self, http, spec):
        (teacher,) = spec["teachers"]
        assistant = {key: teacher[key] for key in ("architecture", "arguments") if key in teacher}
        assistant |= {"weights": "distill", "distillation": {"teachers": [teacher], "method": {"name": "auto"}}}

        stored = http.post("/v1/jobs", json=spec | {"teachers": [assistant], "method": {"name": "auto"}}).json()["spec"]

        inner = stored["teachers"][0]["distillation"]
        assert "auto" not in {stored["method"]["name"], inner["method"]["name"]}
        assert inner["training"]["epochs"] == inner["teachers"][0]["training"]["epochs"] == 200
        estimate = http.post("/v1/estimates", json=stored).json()
        assert estimate["distillations"][0]["model"] == "/teachers/0"
        assert estimate["method"] == stored["method"]

    def test_workers_are_woken(self, server, http, spec):
        server.broker.sent.clear()
        http.post("/v1/jobs", json=spec | {"resources": {"accelerator": "cpu"}})

        assert server.broker.was_sent("jobs:cpu")

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"epoch": 3}, "/epoch"),
            ({"dataset": "ds_nothing"}, "/dataset"),
            ({"method": {"name": "magic"}}, "/method/name"),
            ({"method": {"name": "kd", "temperature": -1}}, "/method/temperature"),
            ({"method": {"name": "kd", "temprature": 2}}, "/method/temprature"),
            ({"student": {"architecture": "vit_tyni"}}, "/student/architecture"),
            ({"student": [1, 2]}, "/student"),
            ({"method": None}, "/method"),
            ({"teachers": []}, "/teachers"),
            ({"student": {"architecture": "resnet10t", "weights": "distill"}}, "/student/distillation"),
            (
                {
                    "student": {
                        "architecture": "resnet10t",
                        "weights": "distill",
                        "distillation": {"teachers": [{"weights": "mdl_nothing"}], "method": {"name": "kd"}},
                    }
                },
                "/student/distillation/teachers/0/weights",
            ),
            ({"training": {"epochs": 10**9}}, "/training/epochs"),
            ({"training": {"batch_size": -4}}, "/training/batch_size"),
            ({"name": "x" * 100_000}, "/name"),
            ({"priority": 2**63 - 1}, "/priority"),
            ({"compression": [{"name": "quantize", "dtype": "int7"}]}, "/compression/0/dtype"),
            ({"resources": {"devices": 65}}, "/resources/devices"),
            ({"resources": {"accelerator": "cpu", "devices": 9}}, "/resources"),
        ],
    )
    def test_an_invalid_spec_names_the_field(self, http, spec, change, pointer):
        response = http.post("/v1/jobs", json=spec | change)

        assert response.status_code == 422
        assert pointer in pointers(response)
        assert http.get("/v1/jobs").json()["data"] == []

    def test_arguments_that_the_model_rejects_are_422(self, http, spec):
        student = {"architecture": "vit_tiny_patch16_224", "arguments": {"embed_dim": 33, "num_heads": 2}}
        response = http.post("/v1/jobs", json=spec | {"student": student})

        assert response.status_code == 422
        assert response.json()["code"] == "invalid_spec"
        assert pointers(response)[0].startswith("/student")

    def test_the_nearest_architecture_is_suggested(self, http, spec):
        response = http.post("/v1/jobs", json=spec | {"student": {"architecture": "vit_tyni_patch16_224"}})

        assert "vit_tiny_patch16_224" in response.json()["detail"]

    def test_planned_features_are_not_available(self, http, spec):
        response = http.post("/v1/jobs", json=spec | {"compression": [{"name": "quantize", "dtype": "bf16"}]})

        assert response.json()["code"] == "not_available"

    def test_all_missing_and_unready_inputs_are_named(self, http, tenant, spec, tmp_path):
        unchecked = tenant.processing_model()
        spec["student"] = spec["student"] | {"weights": unchecked}
        spec["teachers"] = [spec["teachers"][0] | {"weights": tenant.queued_job()}]
        response = http.post("/v1/jobs", json=spec | {"dataset": "ds_" + "0" * 26})

        assert response.status_code == 422
        assert pointers(response) == ["/dataset", "/student/weights", "/teachers/0/weights"]
        assert "processing" in response.json()["errors"][1]["detail"]
        assert "queued" in response.json()["errors"][2]["detail"]

    @pytest.mark.parametrize("pointer", ["/method/pool", "/unlabeled_dataset"])
    def test_a_further_dataset_is_checked_and_protected_from_deletion(self, http, tenant, spec, pointer):
        own = {"architecture": "vit_tiny_patch16_224", "arguments": spec["student"]["arguments"], "weights": "train"}

        def response(pool):
            method = {"name": "attention_probe", "pool": pool}
            changes = {"unlabeled_dataset": pool} if pointer == "/unlabeled_dataset" else {"method": method}
            return http.post("/v1/jobs", json=spec | changes | {"teachers": [own]})

        unlabeled = {"num_classes": None, "classes": None}
        grey, pool = tenant.ready_dataset(channels=1, **unlabeled), tenant.ready_dataset(**unlabeled)
        assert pointers(response("ds_" + "0" * 26)) == [pointer]
        assert pointers(response(grey)) == [pointer]
        job = response(pool)
        assert job.status_code == 201, job.text
        assert http.delete(f"/v1/datasets/{pool}").status_code == 409
        assert http.delete(f"/v1/datasets/{grey}").status_code == 204

    def test_weights_of_a_model_need_no_architecture(self, http, tenant, spec):
        """The stored spec names it, and can be submitted again."""
        model = tenant.ready_model()
        response = http.post("/v1/jobs", json=spec | {"teachers": [{"weights": model}], "student": {"weights": model}})
        stored = response.json()["spec"]
        again = http.post("/v1/jobs", json=stored)

        assert response.status_code == 201, response.text
        assert stored["teachers"][0]["architecture"] == stored["student"]["architecture"] == "vit_tiny_patch16_224"
        assert stored["teachers"][0]["arguments"]["depth"] == 2
        assert again.status_code == 201, again.text
        assert again.json()["spec"] == stored

    def test_an_architecture_that_contradicts_the_weights_is_refused(self, http, tenant, spec):
        teacher = {"weights": tenant.ready_model(), "architecture": "resnet18"}
        response = http.post("/v1/jobs", json=spec | {"teachers": [teacher]})

        assert response.status_code == 422
        assert pointers(response) == ["/teachers/0/architecture"]
        assert "leave architecture out" in response.json()["detail"]

    @pytest.mark.parametrize("student", [{}, {"weights": "pretrained"}, {"weights": "random", "architecture": None}])
    def test_other_weights_need_an_architecture(self, http, spec, student):
        response = http.post("/v1/jobs", json=spec | {"student": student})

        assert response.status_code == 422
        assert pointers(response) == ["/student/architecture"]
        assert "give a timm name" in response.json()["detail"]

    def test_a_dataset_that_is_not_ready_is_rejected(self, http, server, tenant, spec):
        created = http.post("/v1/datasets", json={"source": {"type": "builtin", "name": "digits"}}).json()
        response = http.post("/v1/jobs", json=spec | {"dataset": created["id"]})

        assert response.status_code == 422
        assert "wait until it is ready" in response.json()["detail"]


class TestIdempotency:
    def test_the_same_key_and_body_give_the_first_response(self, http, spec):
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        first, second = (http.post("/v1/jobs", json=spec, headers=headers) for _ in range(2))

        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        assert "Idempotent-Replayed" not in first.headers
        assert second.headers["Idempotent-Replayed"] == "true"
        assert len(http.get("/v1/jobs").json()["data"]) == 1

    def test_the_same_key_with_another_body_is_422(self, http, spec):
        headers = {"Idempotency-Key": "k"}
        http.post("/v1/jobs", json=spec, headers=headers)
        response = http.post("/v1/jobs", json=spec | {"name": "other"}, headers=headers)

        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")

    def test_the_same_key_on_another_resource_is_another_request(self, http, spec):
        headers = {"Idempotency-Key": "k"}
        http.post("/v1/jobs", json=spec, headers=headers)
        body = {"source": {"type": "builtin", "name": "digits"}}
        response = http.post("/v1/datasets", json=body, headers=headers)

        assert (response.status_code, response.json()["code"]) == (422, "idempotency_key_reused")

    def test_idempotency_keys_are_per_project(self, http, make_tenant, spec, spec_of):
        other = make_tenant()
        headers = {"Idempotency-Key": "k"}
        first = http.post("/v1/jobs", json=spec, headers=headers)
        second = other.http.post("/v1/jobs", json=spec_of(other.ready_dataset()), headers=headers)

        assert second.status_code == 201
        assert second.json()["id"] != first.json()["id"]

    def test_after_an_error_the_key_can_be_reused_with_a_fixed_request(self, http, spec):
        headers = {"Idempotency-Key": "k"}
        rejected = http.post("/v1/jobs", json=spec | {"dataset": "ds_" + "0" * 26}, headers=headers)

        assert rejected.status_code == 422
        assert http.post("/v1/jobs", json=spec, headers=headers).status_code == 201

    def test_concurrent_requests_with_one_key_create_one_job(self, server, http, tenant, spec):
        responses = []

        def send():
            with httpx.Client(base_url=server.url, headers=http.headers, timeout=30) as client:
                responses.append(client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "twin"}))

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert {a.status_code for a in responses} <= {201, 409}
        assert {a.json()["code"] for a in responses if a.status_code == 409} <= {"idempotency_key_in_flight"}
        assert len(http.get("/v1/jobs").json()["data"]) == 1

    @pytest.mark.parametrize("key", ["x" * 256, "", "a b"])
    def test_an_invalid_key_is_422(self, http, spec, key):
        assert http.post("/v1/jobs", json=spec, headers={"Idempotency-Key": key}).status_code == 422


class TestWithoutABroker:
    def _timed_post(self, server, make_tenant, spec_of):
        tenant = make_tenant(on=server)
        spec = spec_of(tenant.ready_dataset())
        started_at = time.monotonic()
        response = tenant.http.post("/v1/jobs", json=spec)
        return response, time.monotonic() - started_at, tenant

    def test_a_job_is_accepted_if_the_broker_is_unreachable(self, make_server, make_tenant, spec_of):
        server = make_server(Broker("redis://127.0.0.1:1/0"))
        response, seconds, tenant = self._timed_post(server, make_tenant, spec_of)
        with server.database.read() as session:
            job = jobs.get(session, tenant.project_id, response.json()["id"])

        assert response.status_code == 201
        assert seconds < 3
        assert not job.resolved
        # Requests that need the inspector fail.
        assert tenant.http.post("/v1/estimates", json=job.spec).json()["code"] == "inspector_gone"
        assert tenant.http.get("/v1/architectures").status_code == 503

    def test_a_job_is_accepted_if_the_inspector_is_busy(self, make_server, make_tenant, spec_of):
        class BusyBroker(InProcessBroker):
            async def call_inspector(self, call, payload=None, timeout=10.0):  # noqa: ASYNC109 - as in Broker
                raise InspectorTimeout("The machine is busy; try again soon.")

        response, _, tenant = self._timed_post(make_server(BusyBroker()), make_tenant, spec_of)
        estimate = tenant.http.post("/v1/estimates", json=response.json()["spec"])
        form = {"architecture": "resnet18"}
        model = tenant.http.post("/v1/models", data=form, files={"file": ("w.safetensors", b"no")})

        assert response.status_code == 201
        assert (estimate.status_code, estimate.json()["code"]) == (503, "inspector_busy")
        assert int(estimate.headers["Retry-After"]) > 0
        assert tenant.http.get("/v1/architectures").status_code == 503
        assert model.status_code == 415  # the architecture is checked by the ingest worker

    def test_a_job_is_accepted_if_the_broker_hangs(self, make_server, make_tenant, spec_of, valkey):
        server = make_server(Broker(valkey.url), broker_url=valkey.url)
        valkey.freeze()
        response, seconds, _ = self._timed_post(server, make_tenant, spec_of)
        valkey.thaw()

        assert response.status_code == 201
        assert seconds < 3

    def test_the_spec_is_validated_without_a_broker(self, make_server, make_tenant, spec_of):
        tenant = make_tenant(on=make_server(Broker("redis://127.0.0.1:1/0")))
        spec = spec_of(tenant.ready_dataset())

        assert tenant.http.post("/v1/jobs", json=spec | {"epoch": 1}).status_code == 422


class TestList:
    def test_pages_are_newest_first_without_gaps(self, http, tenant):
        job_ids = [tenant.queued_job() for _ in range(5)]
        first = http.get("/v1/jobs?limit=3").json()
        rest = http.get(f"/v1/jobs?limit=3&after={first['data'][-1]['id']}").json()

        assert (first["object"], first["has_more"], rest["has_more"]) == ("list", True, False)
        assert {job["id"] for job in first["data"] + rest["data"]} == set(job_ids)
        assert len(first["data"]) == 3

    def test_the_list_is_filtered_by_status(self, http, tenant):
        cancelled, _ = tenant.queued_job(), tenant.queued_job()
        http.post(f"/v1/jobs/{cancelled}/cancel")

        assert [job["id"] for job in http.get("/v1/jobs?status=cancelled").json()["data"]] == [cancelled]

    def test_filters_and_orders_combine(self, http, tenant, tmp_path):
        done, tagged = tenant.running_job(), tenant.queued_job(metadata={"team": "search"})
        tenant.succeed(done, tmp_path)

        def listed(**params):
            return [job["id"] for job in http.get("/v1/jobs", params=params).json()["data"]]

        assert listed(metadata="team:search", method=["kd", "scratch"]) == [tagged]
        assert listed(status=["succeeded", "failed"], student="vit_tiny_patch16_224") == [done.job_id]
        assert listed(sort="top1") == [done.job_id, tagged]
        assert listed(sort="created_at", order="asc") == [done.job_id, tagged]
        assert listed(search="SMALL kd", limit=1, after=tagged) == [done.job_id]
        assert listed(dataset=http.get(f"/v1/jobs/{tagged}").json()["spec"]["dataset"]) == [tagged]
        assert listed(created_after="2999-01-01T00:00:00Z") == []

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=100000", "limit=-1", "limit=x", "limit=" + "9" * 30, "limit=1.5",
                  "after=x", "after=ds_" + "0" * 26, "after=%00", "status=done", "status=%00", "method=none",
                  "dataset=none", "metadata=team", "metadata=:x", "search=%00", "sort=size", "order=up",
                  "sort=top1&after=x", "created_after=2026-01-01", "created_before=9999-12-31T23:59:59-10:00",
                  "created_before=0.5"]
    )  # fmt: skip
    def test_an_invalid_parameter_is_422(self, http, query):
        response = http.get(f"/v1/jobs?{query}")

        assert response.status_code == 422
        assert response.json()["code"] == "invalid_request"


class TestOne:
    @pytest.mark.parametrize(
        "job_id", ["job_nothing", "x", "job_" + "0" * 26, "ds_" + "0" * 26, "%00", "a" * 5000, "%FF"]
    )
    def test_an_invalid_or_unknown_id_is_404(self, http, job_id):
        for path in ("", "/events", "/metrics", "/checkpoints", "/artifacts", "/artifacts/x", "/download"):
            response = http.get(f"/v1/jobs/{job_id}{path}")
            assert (response.status_code, response.json()["code"]) == (404, "not_found"), path
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 404
        assert http.post(f"/v1/jobs/{job_id}/cancel").status_code == 404

    def test_a_job_of_an_older_version_stays_readable(self, http, tenant, spec_of):
        spec = spec_of(tenant.ready_dataset(), a_field_of_old=1)
        with tenant.database.write() as session:
            job = jobs.create(session, tenant.project_id, spec=spec, resolved=True, dataset_id=spec["dataset"])

        assert http.get(f"/v1/jobs/{job.id}").json()["spec"] == spec


class TestActions:
    def test_actions_on_a_queued_job(self, http, tenant, server):
        job = f"/v1/jobs/{tenant.queued_job()}"

        assert http.post(f"{job}/resume").json()["status"] == "queued"
        assert http.post(f"{job}/stop").status_code == 409
        assert http.post(f"{job}/retry").status_code == 409
        assert http.post(f"{job}/pause").json()["status"] == "paused"
        assert http.post(f"{job}/resume").json()["status"] == "queued"
        assert http.post(f"{job}/cancel").json()["status"] == "cancelled"
        assert http.post(f"{job}/cancel").json()["status"] == "cancelled"

    def test_a_rejected_action_lists_the_allowed_actions(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        http.post(f"{job}/cancel")
        response = http.post(f"{job}/pause")

        assert (response.status_code, response.json()["code"]) == (409, "invalid_state")
        assert response.json()["next_actions"] == ["retry"]
        assert "retry" in response.json()["detail"]

    def test_a_running_job_shows_its_pending_action(self, http, tenant):
        job = f"/v1/jobs/{tenant.running_job().job_id}"
        body = http.post(f"{job}/stop").json()

        assert (body["status"], body["pending_action"]) == ("running", "stop")

    def test_workers_and_watchers_are_notified(self, http, tenant, server):
        job = tenant.queued_job()
        http.post(f"/v1/jobs/{job}/cancel")
        server.broker.sent.clear()
        http.post(f"/v1/jobs/{job}/retry")

        assert server.broker.was_sent(f"changed:{job}", "jobs:auto")


class TestDelete:
    def test_deleting_a_job_deletes_its_files(self, http, tenant, server, tmp_path):
        lease = tenant.running_job()
        tenant.succeed(lease, tmp_path)
        response = http.delete(f"/v1/jobs/{lease.job_id}")

        assert (response.status_code, response.content) == (204, b"")
        assert http.get(f"/v1/jobs/{lease.job_id}").status_code == 404
        assert list(server.store.list_prefix(f"jobs/{lease.job_id}")) == []

    def test_an_unfinished_job_cannot_be_deleted(self, http, tenant):
        response = http.delete(f"/v1/jobs/{tenant.queued_job()}")

        assert (response.status_code, response.json()["code"]) == (409, "invalid_state")

    def test_the_dataset_of_an_unfinished_job_is_in_use(self, http, tenant):
        job = tenant.queued_job()
        dataset = http.get(f"/v1/jobs/{job}").json()["spec"]["dataset"]
        rejected = http.delete(f"/v1/datasets/{dataset}")
        http.post(f"/v1/jobs/{job}/cancel")

        assert (rejected.status_code, rejected.json()["code"]) == (409, "in_use")
        assert http.delete(f"/v1/datasets/{dataset}").status_code == 204


class TestEstimate:
    def test_an_estimate_creates_no_job(self, http, spec):
        response = http.post("/v1/estimates", json=spec)
        estimate = response.json()

        assert response.status_code == 200
        assert estimate["student"]["parameters"] > 0
        assert estimate["teachers"][0]["flops"] > 0
        assert estimate["total_steps"] == 10
        assert {"seconds", "memory_bytes", "teacher_cache", "warnings"} <= set(estimate)
        assert http.get("/v1/jobs").json()["data"] == []

    def test_the_estimate_reports_a_teacher_cache_hit_after_a_job_has_stored_outputs(self, http, tenant, tmp_path):
        lease = tenant.running_job()
        spec = http.get(f"/v1/jobs/{lease.job_id}").json()["spec"]
        before = http.post("/v1/estimates", json=spec).json()["teacher_cache"]
        with tenant.server.database.write() as session:
            inputs = service.find_inputs(
                tenant.server.database, tenant.server.store, tenant.project_id, parse_job_spec(spec)
            )
            payload = service.resolve_payload(parse_job_spec(spec), inputs, threads=tenant.server.settings.job_threads)
            cache = inspector.handle_call("resolve", payload)["ok"]["estimate"]["teacher_cache"]
            data = {"cache_key": cache["cache_key"], "views": cache["views"], "stopped": None}
            events.append(session, lease, "teacher_cache.summary", "stored", data=data)
        tenant.succeed(lease, tmp_path)
        other = {**spec, "method": {"name": "rkd"}}

        after = http.post("/v1/estimates", json=spec).json()["teacher_cache"]
        assert (before["bytes"], before["views"], before["hit"], before["saved_seconds"]) == (
            2 * 80 * 3 * 2,
            2,
            False,
            0,
        )
        assert after == {**before, "hit": True, "saved_seconds": before["seconds"]}
        assert not http.post("/v1/estimates", json=other).json()["teacher_cache"]["hit"]

    def test_the_estimate_subtracts_what_earlier_jobs_have_trained(self, http, tenant, spec):
        spec |= {"baseline": True, "priority": 100, "training": {**spec["training"], "views": 1}}
        before = http.post("/v1/estimates", json=spec).json()
        lease = tenant.claim(http.post("/v1/jobs", json=spec).json()["id"])
        with tenant.server.database.write() as session:
            teachers.save(session, lease, "t" * 64, [])
            teachers.save(session, lease, "b" * 64, [], kind="baseline")
            of_link = {"teacher": 0, "recipe": "x" * 64, "model": "/teachers/0"}
            events.append(session, lease, "teacher.trained", "Trained.", data={"teacher": 0, "recipe": "t" * 64})
            events.append(session, lease, "teacher.trained", "Trained for a distillation.", data=of_link)
        again = http.post("/v1/estimates", json=spec | {"method": {"name": "dkd"}}).json()
        other = {**spec, "training": {**spec["training"], "learning_rate": 0.5}}
        partly = http.post("/v1/estimates", json=other).json()
        teacher, baseline = again["teacher_trainings"][0], again["baseline"]

        assert (before["teacher_trainings"][0]["reused"], before["baseline"]["reused"]) == (False, False)
        assert (teacher["reused"], baseline["reused"]) == (True, True)
        assert (teacher["saved_seconds"], baseline["saved_seconds"]) == (teacher["seconds"], baseline["seconds"])
        saved = teacher["seconds"] + baseline["seconds"]
        assert again["seconds"] == pytest.approx(before["seconds"] - saved, rel=0.2)
        assert (partly["teacher_trainings"][0]["reused"], partly["baseline"]["reused"]) == (True, False)
        sweep = {"spec": spec, "grid": {"training.learning_rate": [0.5, 0.25]}}
        assert http.post("/v1/sweeps/estimate", json=sweep).json()["shared_seconds"] == pytest.approx(
            before["teacher_cache"]["seconds"], abs=0.2
        )
        with tenant.server.database.read() as session:
            assert teachers.find_of_job(session, tenant.project_id, lease.job_id)[0].fingerprint == "t" * 64

    def test_an_invalid_spec_is_422(self, http, spec):
        response = http.post("/v1/estimates", json=spec | {"student": {"architecture": "vit_tyni"}})

        assert (response.status_code, response.json()["code"]) == (422, "invalid_spec")
