"""Jobs over HTTP: creating with all checks, listing, moving, deleting, estimating."""

import threading
import time
import uuid

import httpx
import pytest

from api.jobs import service
from core.broker import Broker
from core.spec import parse_job_spec
from core.store import events, jobs
from worker import inspector


@pytest.fixture
def spec(tenant, spec_of):
    return spec_of(tenant.ready_dataset())


def pointers(answer):
    return [error["pointer"] for error in answer.json()["errors"]]


class TestCreate:
    def test_the_job_is_queued_with_every_default_filled_in(self, server, http, spec):
        answer = http.post("/v1/jobs", json=spec)
        job = answer.json()

        assert answer.status_code == 201
        assert job["id"].startswith("job_")
        assert (job["status"], job["terminal"], job["attempt"]) == ("queued", False, 0)
        assert set(job["next_actions"]) == {"cancel", "pause"}
        assert job["spec"]["teachers"][0]["training"]["epochs"] == 20
        assert job["spec"]["training"]["seed"] == 0
        assert job["spec"]["resources"]["threads"] == server.settings.job_threads
        assert job["progress"]["total_steps"] == 10
        assert job["created_at"].endswith("Z")
        assert job["result"] is None
        assert http.get(f"/v1/jobs/{job['id']}").json() == job

    def test_workers_are_told_once_it_is_stored(self, server, http, spec):
        server.hints.sent.clear()
        http.post("/v1/jobs", json=spec | {"resources": {"accelerator": "cpu"}})

        assert server.hints.was_told("jobs:cpu")

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
            ({"training": {"epochs": 10**9}}, "/training/epochs"),
            ({"training": {"batch_size": -4}}, "/training/batch_size"),
            ({"name": "x" * 100_000}, "/name"),
            ({"priority": 2**63 - 1}, "/priority"),
            ({"compression": [{"name": "quantize"}]}, "/compression"),
            ({"resources": {"devices": 65}}, "/resources/devices"),
            ({"resources": {"accelerator": "cpu", "devices": 9}}, "/resources"),
        ],
    )
    def test_what_cannot_be_is_refused_where_it_stands(self, http, spec, change, pointer):
        answer = http.post("/v1/jobs", json=spec | change)

        assert answer.status_code == 422
        assert pointer in pointers(answer)
        assert http.get("/v1/jobs").json()["data"] == []

    def test_what_only_the_model_itself_refuses_is_refused_too(self, http, spec):
        student = {"architecture": "vit_tiny_patch16_224", "arguments": {"embed_dim": 33, "num_heads": 2}}
        answer = http.post("/v1/jobs", json=spec | {"student": student})

        assert answer.status_code == 422
        assert answer.json()["code"] == "invalid_spec"
        assert pointers(answer)[0].startswith("/student")

    def test_the_nearest_architecture_is_offered(self, http, spec):
        answer = http.post("/v1/jobs", json=spec | {"student": {"architecture": "vit_tyni_patch16_224"}})

        assert "vit_tiny_patch16_224" in answer.json()["detail"]

    def test_what_the_contract_promises_for_later_is_not_available(self, http, spec):
        answer = http.post("/v1/jobs", json=spec | {"compression": [{"name": "prune"}]})

        assert answer.json()["code"] == "not_available"

    def test_inputs_that_are_missing_or_not_ready_are_named_all_at_once(self, http, tenant, spec, tmp_path):
        unchecked = tenant.own_model(tmp_path)
        spec["student"] = spec["student"] | {"weights": unchecked}
        spec["teachers"] = [spec["teachers"][0] | {"weights": tenant.queued_job()}]
        answer = http.post("/v1/jobs", json=spec | {"dataset": "ds_" + "0" * 26})

        assert answer.status_code == 422
        assert pointers(answer) == ["/dataset", "/student/weights", "/teachers/0/weights"]
        assert "processing" in answer.json()["errors"][1]["detail"]
        assert "queued" in answer.json()["errors"][2]["detail"]

    def test_a_pool_is_looked_for_checked_and_kept_from_deletion(self, http, tenant, spec):
        own = {"architecture": "vit_tiny_patch16_224", "arguments": spec["student"]["arguments"], "weights": "train"}

        def answer(pool):
            method = {"name": "attention_probe", "pool": pool}
            return http.post("/v1/jobs", json=spec | {"method": method, "teachers": [own]})

        unlabelled = {"num_classes": None, "classes": None}
        grey, pool = tenant.ready_dataset(channels=1, **unlabelled), tenant.ready_dataset(**unlabelled)
        assert pointers(answer("ds_" + "0" * 26)) == ["/method/pool"]
        assert pointers(answer(grey)) == ["/method/pool"]
        job = answer(pool)
        assert job.status_code == 201, job.text
        assert http.delete(f"/v1/datasets/{pool}").status_code == 409
        assert http.delete(f"/v1/datasets/{grey}").status_code == 204

    def test_a_dataset_that_failed_says_why(self, http, server, tenant, spec):
        created = http.post("/v1/datasets", json={"source": {"type": "builtin", "name": "digits"}}).json()
        answer = http.post("/v1/jobs", json=spec | {"dataset": created["id"]})

        assert answer.status_code == 422
        assert "wait until it is ready" in answer.json()["detail"]


class TestIdempotency:
    def test_the_same_key_and_body_give_the_first_answer(self, http, spec):
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        first, second = (http.post("/v1/jobs", json=spec, headers=headers) for _ in range(2))

        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json() == second.json()
        assert "Idempotent-Replayed" not in first.headers
        assert second.headers["Idempotent-Replayed"] == "true"
        assert len(http.get("/v1/jobs").json()["data"]) == 1

    def test_the_same_key_with_another_body_is_refused(self, http, spec):
        headers = {"Idempotency-Key": "k"}
        http.post("/v1/jobs", json=spec, headers=headers)
        answer = http.post("/v1/jobs", json=spec | {"name": "other"}, headers=headers)

        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")

    def test_the_same_key_on_another_resource_is_another_request(self, http, spec):
        headers = {"Idempotency-Key": "k"}
        http.post("/v1/jobs", json=spec, headers=headers)
        body = {"source": {"type": "builtin", "name": "digits"}}
        answer = http.post("/v1/datasets", json=body, headers=headers)

        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")

    def test_projects_have_keys_of_their_own(self, http, make_tenant, spec, spec_of):
        other = make_tenant()
        headers = {"Idempotency-Key": "k"}
        first = http.post("/v1/jobs", json=spec, headers=headers)
        theirs = other.http.post("/v1/jobs", json=spec_of(other.ready_dataset()), headers=headers)

        assert theirs.status_code == 201
        assert theirs.json()["id"] != first.json()["id"]

    def test_after_a_refusal_the_key_can_be_used_for_the_mended_request(self, http, spec):
        headers = {"Idempotency-Key": "k"}
        refused = http.post("/v1/jobs", json=spec | {"dataset": "ds_" + "0" * 26}, headers=headers)

        assert refused.status_code == 422
        assert http.post("/v1/jobs", json=spec, headers=headers).status_code == 201

    def test_twins_at_the_same_time_make_one_job(self, server, http, tenant, spec):
        answers = []

        def send():
            with httpx.Client(base_url=server.url, headers=http.headers, timeout=30) as client:
                answers.append(client.post("/v1/jobs", json=spec, headers={"Idempotency-Key": "twin"}))

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert {a.status_code for a in answers} <= {201, 409}
        assert {a.json()["code"] for a in answers if a.status_code == 409} <= {"idempotency_key_in_flight"}
        assert len(http.get("/v1/jobs").json()["data"]) == 1

    @pytest.mark.parametrize("key", ["x" * 256, "", "a b"])
    def test_a_key_that_cannot_be_one_is_refused(self, http, spec, key):
        assert http.post("/v1/jobs", json=spec, headers={"Idempotency-Key": key}).status_code == 422


class TestWithoutABroker:
    def _seconds_of_post(self, server, make_tenant, spec_of):
        tenant = make_tenant(of=server)
        spec = spec_of(tenant.ready_dataset())
        began = time.monotonic()
        answer = tenant.http.post("/v1/jobs", json=spec)
        return answer, time.monotonic() - began, tenant

    def test_a_job_is_accepted_when_the_broker_is_gone(self, make_server, make_tenant, spec_of):
        server = make_server(Broker("redis://127.0.0.1:1/0"))
        answer, seconds, tenant = self._seconds_of_post(server, make_tenant, spec_of)
        with server.database.read() as session:
            job = jobs.get(session, tenant.project_id, answer.json()["id"])

        assert answer.status_code == 201
        assert seconds < 3
        assert not job.resolved
        # What needs the inspector to be answered at all says so.
        assert tenant.http.post("/v1/estimates", json=job.spec).json()["code"] == "inspector_gone"
        assert tenant.http.get("/v1/architectures").status_code == 503

    def test_a_job_is_accepted_when_the_broker_hangs(self, make_server, make_tenant, spec_of, valkey):
        server = make_server(Broker(valkey.url), broker_url=valkey.url)
        valkey.freeze()
        answer, seconds, _ = self._seconds_of_post(server, make_tenant, spec_of)
        valkey.thaw()

        assert answer.status_code == 201
        assert seconds < 3

    def test_static_checks_are_made_nevertheless(self, make_server, make_tenant, spec_of):
        tenant = make_tenant(of=make_server(Broker("redis://127.0.0.1:1/0")))
        spec = spec_of(tenant.ready_dataset())

        assert tenant.http.post("/v1/jobs", json=spec | {"epoch": 1}).status_code == 422


class TestList:
    def test_pages_are_newest_first_and_meet_without_a_gap(self, http, tenant):
        made = [tenant.queued_job() for _ in range(5)]
        first = http.get("/v1/jobs?limit=3").json()
        rest = http.get(f"/v1/jobs?limit=3&after={first['data'][-1]['id']}").json()

        assert (first["object"], first["has_more"], rest["has_more"]) == ("list", True, False)
        assert {job["id"] for job in first["data"] + rest["data"]} == set(made)
        assert len(first["data"]) == 3

    def test_one_status_alone(self, http, tenant):
        cancelled, _ = tenant.queued_job(), tenant.queued_job()
        http.post(f"/v1/jobs/{cancelled}/cancel")

        assert [job["id"] for job in http.get("/v1/jobs?status=cancelled").json()["data"]] == [cancelled]

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=100000", "limit=-1", "limit=x", "limit=" + "9" * 30, "limit=1.5",
                  "after=x", "after=ds_" + "0" * 26, "after=%00", "status=done", "status=%00"]
    )  # fmt: skip
    def test_a_parameter_out_of_range_is_422(self, http, query):
        answer = http.get(f"/v1/jobs?{query}")

        assert answer.status_code == 422
        assert answer.json()["code"] == "invalid_request"


class TestOne:
    @pytest.mark.parametrize(
        "job_id", ["job_nothing", "x", "job_" + "0" * 26, "ds_" + "0" * 26, "%00", "a" * 5000, "%FF"]
    )
    def test_what_is_no_id_or_nobodys_is_404(self, http, job_id):
        for path in ("", "/events", "/metrics", "/checkpoints", "/artifacts", "/artifacts/x", "/download"):
            answer = http.get(f"/v1/jobs/{job_id}{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
        assert http.delete(f"/v1/jobs/{job_id}").status_code == 404
        assert http.post(f"/v1/jobs/{job_id}/cancel").status_code == 404

    def test_a_job_that_an_older_version_accepted_stays_readable(self, http, tenant, spec_of):
        spec = spec_of(tenant.ready_dataset(), a_field_of_old=1)
        with tenant.database.write() as session:
            job = jobs.create(session, tenant.project_id, spec=spec, resolved=True, dataset_id=spec["dataset"])

        assert http.get(f"/v1/jobs/{job.id}").json()["spec"] == spec


class TestMoves:
    def test_the_table_of_a_queued_job(self, http, tenant, server):
        job = f"/v1/jobs/{tenant.queued_job()}"

        assert http.post(f"{job}/resume").json()["status"] == "queued"
        assert http.post(f"{job}/stop").status_code == 409
        assert http.post(f"{job}/retry").status_code == 409
        assert http.post(f"{job}/pause").json()["status"] == "paused"
        assert http.post(f"{job}/resume").json()["status"] == "queued"
        assert http.post(f"{job}/cancel").json()["status"] == "cancelled"
        assert http.post(f"{job}/cancel").json()["status"] == "cancelled"

    def test_a_refused_move_names_those_that_are_allowed(self, http, tenant):
        job = f"/v1/jobs/{tenant.queued_job()}"
        http.post(f"{job}/cancel")
        answer = http.post(f"{job}/pause")

        assert (answer.status_code, answer.json()["code"]) == (409, "invalid_state")
        assert answer.json()["next_actions"] == ["retry"]
        assert "retry" in answer.json()["detail"]

    def test_a_running_job_keeps_what_was_asked_for(self, http, tenant):
        job = f"/v1/jobs/{tenant.running_job().job_id}"
        asked = http.post(f"{job}/stop").json()

        assert (asked["status"], asked["pending_action"]) == ("running", "stop")

    def test_workers_and_watchers_are_told(self, http, tenant, server):
        job = tenant.queued_job()
        http.post(f"/v1/jobs/{job}/cancel")
        server.hints.sent.clear()
        http.post(f"/v1/jobs/{job}/retry")

        assert server.hints.was_told(f"changed:{job}", "jobs:auto")


class TestDelete:
    def test_a_job_that_has_ended_goes_with_its_files(self, http, tenant, server, tmp_path):
        attempt = tenant.running_job()
        tenant.succeed(attempt, tmp_path)
        answer = http.delete(f"/v1/jobs/{attempt.job_id}")

        assert (answer.status_code, answer.content) == (204, b"")
        assert http.get(f"/v1/jobs/{attempt.job_id}").status_code == 404
        assert list(server.store.list_prefix(f"jobs/{attempt.job_id}")) == []

    def test_one_that_has_not_ended_stays(self, http, tenant):
        answer = http.delete(f"/v1/jobs/{tenant.queued_job()}")

        assert (answer.status_code, answer.json()["code"]) == (409, "invalid_state")

    def test_its_dataset_is_in_use_until_then(self, http, tenant):
        job = tenant.queued_job()
        dataset = http.get(f"/v1/jobs/{job}").json()["spec"]["dataset"]
        refused = http.delete(f"/v1/datasets/{dataset}")
        http.post(f"/v1/jobs/{job}/cancel")

        assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
        assert http.delete(f"/v1/datasets/{dataset}").status_code == 204


class TestEstimate:
    def test_it_says_what_the_job_would_be_and_queues_nothing(self, http, spec):
        answer = http.post("/v1/estimates", json=spec)
        estimate = answer.json()

        assert answer.status_code == 200
        assert estimate["student"]["parameters"] > 0
        assert estimate["teachers"][0]["flops"] > 0
        assert estimate["total_steps"] == 10
        assert {"seconds", "memory_bytes", "teacher_cache", "warnings"} <= set(estimate)
        assert http.get("/v1/jobs").json()["data"] == []

    def test_it_says_that_the_teachers_answers_are_there_once_a_job_has_stored_them(self, http, tenant, tmp_path):
        attempt = tenant.running_job()
        spec = http.get(f"/v1/jobs/{attempt.job_id}").json()["spec"]
        before = http.post("/v1/estimates", json=spec).json()["teacher_cache"]
        with tenant.server.database.write() as session:
            facts = service.find_inputs(tenant.server.database, tenant.project_id, parse_job_spec(spec))
            question = service.question(parse_job_spec(spec), facts, threads=tenant.server.settings.job_threads)
            told = inspector.answer("resolve", question)["ok"]["estimate"]["teacher_cache"]
            data = {"asked": told["asked"], "views": told["views"], "stopped": None}
            events.append(session, attempt, "teacher_cache.summary", "stored", data=data)
        tenant.succeed(attempt, tmp_path)
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

    def test_a_spec_that_cannot_be_is_refused_alike(self, http, spec):
        answer = http.post("/v1/estimates", json=spec | {"student": {"architecture": "vit_tyni"}})

        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")
