import json

import pytest

from client.errors import ApiError, IngestFailed, NotReady, TokenLost


def page(*ids, more=False):
    return {"object": "list", "data": [{"id": one} for one in ids], "has_more": more}


def event(seq, **more):
    return {"id": f"evt_{seq}", "seq": seq, "type": "t", "message": f"m{seq}", "level": "info", **more}


def stream(*events):
    return "".join(f"id: {one['seq']}\nevent: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events).encode()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("client.sdk.time.sleep", lambda _: None)


def test_lists_are_read_page_by_page_as_they_are_needed(service, potstill, answer):
    service.on("GET", "/v1/jobs", answer(page("job_3", "job_2", more=True)), answer(page("job_1")))

    listed = potstill.jobs.list(status="failed")

    assert next(listed)["id"] == "job_3"
    assert len(service.received) == 1
    assert [job["id"] for job in listed] == ["job_2", "job_1"]
    assert service.received[1].query == {"status": ["failed"], "limit": ["100"], "after": ["job_2"]}


def test_waiting_asks_again_until_the_job_is_terminal(service, potstill, answer, make_job):
    service.on("GET", "/v1/jobs/job_1", answer(make_job(terminal=False, status="running")), answer(make_job()))

    assert potstill.jobs.wait("job_1")["status"] == "succeeded"
    assert service.received[0].query == {"wait": ["30"]}


def test_waiting_has_an_end(service, potstill, answer, make_job):
    service.on("GET", "/v1/jobs/job_1", answer(make_job(terminal=False, status="running")))

    with pytest.raises(NotReady, match="still running"):
        potstill.jobs.wait("job_1", timeout_seconds=0.0)


def test_events_go_on_without_a_gap_when_the_stream_breaks(service, potstill, answer, make_job):
    whole = stream(event(1), event(2), event(3))
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        answer(body=whole, cut_after=len(stream(event(1))) + 10),
        answer(body=stream(event(2), event(3))),
        answer({"data": [event(1), event(2), event(3)], "has_more": False}),
    )
    service.on("GET", "/v1/jobs/job_1", answer(make_job()))

    assert [one["seq"] for one in potstill.jobs.events("job_1")] == [1, 2, 3]
    assert service.received[1].headers["last-event-id"] == "1"


def test_events_that_the_ending_stream_did_not_bring_are_read_from_the_list(service, potstill, answer, make_job):
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        answer(body=stream(event(1))),
        answer({"data": [event(1), event(2)], "has_more": False}),
    )
    service.on("GET", "/v1/jobs/job_1", answer(make_job()))

    assert [one["seq"] for one in potstill.jobs.events("job_1")] == [1, 2]


def test_a_stream_that_a_stopping_service_ended_is_opened_again(service, potstill, answer, make_job):
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        answer(body=stream(event(1))),
        answer(body=stream(event(2))),
        answer({"data": [], "has_more": False}),
    )
    service.on("GET", "/v1/jobs/job_1", answer(make_job(terminal=False)), answer(make_job()))

    assert [one["seq"] for one in potstill.jobs.events("job_1")] == [1, 2]


def test_events_of_a_job_that_is_not_there_are_an_error(service, potstill, answer):
    service.on("GET", "/v1/jobs/job_1/events", answer({"title": "t", "detail": "d", "code": "not_found"}, 404))

    with pytest.raises(ApiError, match="not_found"):
        list(potstill.jobs.events("job_1"))


def test_an_upload_is_sent_whole_at_every_try(service, potstill, answer, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip" * 1000)
    made = {"id": "ds_1", "name": "pets", "status": "processing"}
    service.on("POST", "/v1/datasets", answer({"code": "unavailable"}, 503), answer(made, 202))

    assert potstill.datasets.upload(archive)["id"] == "ds_1"

    for received in service.received:
        assert b"zip" * 1000 in received.body
        assert b'name="name"\r\n\r\npets\r\n' in received.body
        assert b'name="labels"' not in received.body


def test_an_upload_says_that_labels_are_not_wanted(service, potstill, answer, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip")
    service.on("POST", "/v1/datasets", answer({"id": "ds_1", "name": "pets", "status": "processing"}, 202))

    potstill.datasets.upload(archive, labels="none")

    assert b'name="labels"\r\n\r\nnone\r\n' in service.received[0].body


def test_an_address_is_sent_and_fetched_by_the_service(service, potstill, answer):
    service.on("POST", "/v1/datasets", *[answer({"id": "ds_1", "name": "pets", "status": "processing"}, 202)] * 2)

    potstill.datasets.add(url="https://example.com/pets.zip")
    potstill.datasets.add(url="https://example.com/pets.zip", name="mine", labels="none")

    plain, named = (json.loads(received.body) for received in service.received)
    assert plain == {"source": {"type": "url", "url": "https://example.com/pets.zip"}}
    assert named == {
        "name": "mine",
        "source": {"type": "url", "url": "https://example.com/pets.zip", "labels": "none"},
    }


def test_a_model_goes_with_its_architecture_and_arguments(service, potstill, answer, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"12345678")
    service.on("POST", "/v1/models", answer({"id": "mdl_1", "status": "processing"}, 202))

    potstill.models.upload(weights, architecture="resnet18", arguments={"num_classes": 3}, classes=["a", "b", "c"])

    body = service.received[0].body
    assert b'name="arguments"\r\n\r\n{"num_classes": 3}\r\n' in body
    assert b'name="classes"\r\n\r\n["a", "b", "c"]\r\n' in body


def test_a_dataset_is_waited_for(service, potstill, answer):
    service.on("GET", "/v1/datasets/ds_1", answer({"status": "processing"}), answer({"status": "ready"}))

    assert potstill.datasets.wait("ds_1")["status"] == "ready"


def test_a_dataset_that_failed_says_why(service, potstill, answer):
    failed = {"id": "ds_1", "status": "failed", "error": {"code": "dataset_rejected", "message": "no images in it"}}
    service.on("GET", "/v1/datasets/ds_1", answer(failed))

    with pytest.raises(IngestFailed, match="no images in it"):
        potstill.datasets.wait("ds_1")


def test_a_file_that_the_job_does_not_have_is_named(service, potstill, answer, tmp_path):
    listed = {"name": "model.onnx", "media_type": "x", "size_bytes": 1, "sha256": "0"}
    service.on("GET", "/v1/jobs/job_1/artifacts", answer({"data": [listed], "has_more": False}))

    with pytest.raises(NotReady, match=r"no model\.int8\.onnx; it has model\.onnx"):
        potstill.jobs.download("job_1", tmp_path, names=["model.int8.onnx"])


def test_metrics_are_thinned_when_asked(service, potstill, answer):
    service.on("GET", "/v1/jobs/job_1/metrics", answer({"series": [{"name": "train/loss", "points": [[1, 2.0]]}]}))

    assert potstill.jobs.metrics("job_1", max_points=10)[0]["name"] == "train/loss"
    assert service.received[0].query == {"max_points": ["10"]}


def test_methods_architectures_and_estimates_are_read(service, potstill, answer):
    service.on("GET", "/v1/methods", answer({"data": [{"name": "kd"}]}))
    service.on("GET", "/v1/architectures", answer({"data": [{"name": "deit"}]}))
    service.on("POST", "/v1/estimates", answer({"total_steps": 5}))

    assert potstill.methods() == [{"name": "kd"}]
    assert potstill.architectures("deit", limit=3) == [{"name": "deit"}]
    assert potstill.estimate({"a": 1}) == {"total_steps": 5}
    assert service.received[1].query == {"search": ["deit"], "limit": ["3"]}


def make_key(**changes):
    key = {
        "id": "key_2",
        "object": "api_key",
        "name": "laptop",
        "prefix": "ps_2",
        "scopes": ["read"],
        "created_at": "2026-11-24T08:00:00.000Z",
        "last_used_at": None,
        "expires_at": None,
        "revoked_at": None,
        "replaces": None,
    }
    return {**key, **changes}


def test_a_key_is_made_rotated_and_revoked(service, potstill, answer):
    service.on("POST", "/v1/api-keys", answer(make_key(token="ps_2_x"), 201))
    service.on("POST", "/v1/api-keys/key_2/rotate", answer(make_key(id="key_3", token="ps_3_x"), 201))
    service.on("DELETE", "/v1/api-keys/key_3", answer(status=204, body=b""))
    service.on("GET", "/v1/api-keys", answer({"data": [make_key()], "has_more": False}))

    assert potstill.keys.create("laptop", scopes=["read"], expires_in_days=7)["token"] == "ps_2_x"
    assert potstill.keys.rotate("key_2", overlap_seconds=0)["token"] == "ps_3_x"
    potstill.keys.revoke("key_3")
    assert [key["id"] for key in potstill.keys.list()] == ["key_2"]

    bodies = [json.loads(one.body) for one in service.received if one.method == "POST"]
    assert bodies == [{"name": "laptop", "scopes": ["read"], "expires_in_days": 7}, {"overlap_seconds": 0}]


def test_a_token_that_was_lost_on_the_way_is_told(service, potstill, answer):
    made = make_key(token="ps_2_x")
    service.on("POST", "/v1/api-keys", answer(made, 201, cut_after=5), answer({**made, "token": None}, 201))

    with pytest.raises(TokenLost, match=r"key_2 was made.*revoke it"):
        potstill.keys.create("laptop")


def test_the_audit_log_is_read_page_by_page(service, potstill, answer):
    pages = [{"data": [{"id": "aud_2"}], "has_more": True}, {"data": [{"id": "aud_1"}], "has_more": False}]
    service.on("GET", "/v1/audit-log", *map(answer, pages))

    assert [entry["id"] for entry in potstill.audit_log(action="job.create")] == ["aud_2", "aud_1"]
    assert service.received[1].query == {"action": ["job.create"], "limit": ["100"], "after": ["aud_2"]}


def test_a_retry_says_what_is_to_be_changed(service, potstill, answer, make_job):
    service.on("POST", "/v1/jobs/job_1/retry", answer(make_job(status="queued", terminal=False)))

    potstill.jobs.retry("job_1")
    potstill.jobs.retry("job_1", apply_fix=True)
    potstill.jobs.retry("job_1", changes={"training": {"batch_size": 64}})

    plain, fixed, changed = service.received
    assert plain.body == b""
    assert json.loads(fixed.body) == {"apply_fix": True, "changes": {}}
    assert json.loads(changed.body) == {"apply_fix": False, "changes": {"training": {"batch_size": 64}}}
