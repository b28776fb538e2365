import json

import pytest

from client import sdk
from client.errors import ApiError, ClientError, IngestFailed, NotReady, TokenLost


def page(*ids, more=False):
    return {"object": "list", "data": [{"id": item} for item in ids], "has_more": more}


def event(seq, **more):
    return {"id": f"evt_{seq}", "seq": seq, "type": "t", "message": f"m{seq}", "level": "info", **more}


def stream(*events):
    return "".join(
        f"id: {item['seq']}\nevent: {item['type']}\ndata: {json.dumps(item)}\n\n" for item in events
    ).encode()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(sdk.time, "sleep", lambda _: None)


def test_lists_are_paginated_lazily(service, potstill, respond):
    service.on("GET", "/v1/jobs", respond(page("job_3", "job_2", more=True)), respond(page("job_1")))

    listed = potstill.jobs.list(status="failed")

    assert next(listed)["id"] == "job_3"
    assert len(service.received) == 1
    assert [job["id"] for job in listed] == ["job_2", "job_1"]
    assert service.received[1].query == {"status": ["failed"], "limit": ["100"], "after": ["job_2"]}


def test_wait_polls_until_the_job_is_terminal(service, potstill, respond, make_job):
    service.on("GET", "/v1/jobs/job_1", respond(make_job(terminal=False, status="running")), respond(make_job()))

    assert potstill.jobs.wait("job_1")["status"] == "succeeded"
    assert service.received[0].query == {"wait": ["30"]}


def test_wait_times_out(service, potstill, respond, make_job):
    service.on("GET", "/v1/jobs/job_1", respond(make_job(terminal=False, status="running")))

    with pytest.raises(NotReady, match="still running"):
        potstill.jobs.wait("job_1", timeout_seconds=0.0)


def test_a_broken_event_stream_resumes_without_a_gap(service, potstill, respond, make_job):
    complete = stream(event(1), event(2), event(3))
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        respond(body=complete, cut_after=len(stream(event(1))) + 10),
        respond(body=stream(event(2), event(3))),
        respond({"data": [event(1), event(2), event(3)], "has_more": False}),
    )
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))

    assert [item["seq"] for item in potstill.jobs.events("job_1")] == [1, 2, 3]
    assert service.received[1].headers["last-event-id"] == "1"


def test_events_missing_from_the_stream_are_read_from_the_list(service, potstill, respond, make_job):
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        respond(body=stream(event(1))),
        respond({"data": [event(1), event(2)], "has_more": False}),
    )
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))

    assert [item["seq"] for item in potstill.jobs.events("job_1")] == [1, 2]


def test_a_stream_closed_by_a_stopping_service_is_reopened(service, potstill, respond, make_job):
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        respond(body=stream(event(1))),
        respond(body=stream(event(2))),
        respond({"data": [], "has_more": False}),
    )
    service.on("GET", "/v1/jobs/job_1", respond(make_job(terminal=False)), respond(make_job()))

    assert [item["seq"] for item in potstill.jobs.events("job_1")] == [1, 2]


def test_events_of_an_unknown_job_are_an_error(service, potstill, respond):
    service.on("GET", "/v1/jobs/job_1/events", respond({"title": "t", "detail": "d", "code": "not_found"}, 404))

    with pytest.raises(ApiError, match="not_found"):
        list(potstill.jobs.events("job_1"))


def test_an_upload_is_sent_completely_at_every_attempt(service, potstill, respond, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip" * 1000)
    created = {"id": "ds_1", "name": "pets", "status": "processing"}
    service.on("POST", "/v1/datasets", respond({"code": "unavailable"}, 503), respond(created, 202))

    assert potstill.datasets.upload(archive)["id"] == "ds_1"

    for received in service.received:
        assert b"zip" * 1000 in received.body
        assert b'name="name"\r\n\r\npets\r\n' in received.body
        assert b'name="labels"' not in received.body


def test_an_upload_sends_labels_none(service, potstill, respond, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip")
    service.on("POST", "/v1/datasets", respond({"id": "ds_1", "name": "pets", "status": "processing"}, 202))

    potstill.datasets.upload(archive, labels="none")

    assert b'name="labels"\r\n\r\nnone\r\n' in service.received[0].body


def test_the_choice_of_the_folders_is_sent(service, potstill, respond, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip")
    service.on("POST", "/v1/datasets", *[respond({"id": "ds_1", "name": "pets", "status": "processing"}, 202)] * 2)
    folders = {"train": "seg_train", "test": "seg_test"}

    potstill.datasets.upload(archive, splits=folders, class_from="parent")
    potstill.datasets.add(url="https://example.com/pets.zip", splits=folders)

    upload, url = service.received
    assert b'name="splits"\r\n\r\n{"train": "seg_train", "test": "seg_test"}\r\n' in upload.body
    assert b'name="class_from"\r\n\r\nparent\r\n' in upload.body
    assert json.loads(url.body)["source"]["splits"] == folders


def test_a_dataset_url_is_sent(service, potstill, respond):
    service.on("POST", "/v1/datasets", *[respond({"id": "ds_1", "name": "pets", "status": "processing"}, 202)] * 2)

    potstill.datasets.add(url="https://example.com/pets.zip")
    potstill.datasets.add(url="https://example.com/pets.zip", name="mine", labels="none")

    plain, named = (json.loads(received.body) for received in service.received)
    assert plain == {"source": {"type": "url", "url": "https://example.com/pets.zip"}}
    assert named == {
        "name": "mine",
        "source": {"type": "url", "url": "https://example.com/pets.zip", "labels": "none"},
    }


def test_a_model_upload_sends_architecture_and_arguments(service, potstill, respond, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"12345678")
    service.on("POST", "/v1/models", respond({"id": "mdl_1", "status": "processing"}, 202))

    potstill.models.upload(weights, architecture="resnet18", arguments={"num_classes": 3}, classes=["a", "b", "c"])

    body = service.received[0].body
    assert b'name="arguments"\r\n\r\n{"num_classes": 3}\r\n' in body
    assert b'name="classes"\r\n\r\n["a", "b", "c"]\r\n' in body


def test_wait_returns_a_ready_dataset(service, potstill, respond):
    service.on("GET", "/v1/datasets/ds_1", respond({"status": "processing"}), respond({"status": "ready"}))

    assert potstill.datasets.wait("ds_1")["status"] == "ready"


def test_wait_raises_the_reason_of_a_failed_dataset(service, potstill, respond):
    failed = {"id": "ds_1", "status": "failed", "error": {"code": "dataset_rejected", "message": "no images in it"}}
    service.on("GET", "/v1/datasets/ds_1", respond(failed))

    with pytest.raises(IngestFailed, match="no images in it"):
        potstill.datasets.wait("ds_1")


def test_a_missing_artifact_is_reported(service, potstill, respond, tmp_path):
    listed = {"name": "model.onnx", "media_type": "x", "size_bytes": 1, "sha256": "0"}
    service.on("GET", "/v1/jobs/job_1/artifacts", respond({"data": [listed], "has_more": False}))

    with pytest.raises(NotReady, match=r"no model\.int8\.onnx; it has model\.onnx"):
        potstill.jobs.download("job_1", tmp_path, names=["model.int8.onnx"])


def test_metrics_send_max_points(service, potstill, respond):
    service.on("GET", "/v1/jobs/job_1/metrics", respond({"series": [{"name": "train/loss", "points": [[1, 2.0]]}]}))

    assert potstill.jobs.metrics("job_1", max_points=10)[0]["name"] == "train/loss"
    assert service.received[0].query == {"max_points": ["10"]}


def test_methods_architectures_and_estimates_are_read(service, potstill, respond):
    service.on("GET", "/v1/methods", respond({"data": [{"name": "kd"}]}))
    service.on("GET", "/v1/architectures", respond({"data": [{"name": "deit"}]}))
    service.on("POST", "/v1/estimates", respond({"total_steps": 5}))

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


def test_a_key_is_made_rotated_and_revoked(service, potstill, respond):
    service.on("POST", "/v1/api-keys", respond(make_key(token="ps_2_x"), 201))
    service.on("POST", "/v1/api-keys/key_2/rotate", respond(make_key(id="key_3", token="ps_3_x"), 201))
    service.on("DELETE", "/v1/api-keys/key_3", respond(status=204, body=b""))
    service.on("GET", "/v1/api-keys", respond({"data": [make_key()], "has_more": False}))

    assert potstill.keys.create("laptop", scopes=["read"], expires_in_days=7)["token"] == "ps_2_x"
    assert potstill.keys.rotate("key_2", overlap_seconds=0)["token"] == "ps_3_x"
    potstill.keys.revoke("key_3")
    assert [key["id"] for key in potstill.keys.list()] == ["key_2"]

    bodies = [json.loads(item.body) for item in service.received if item.method == "POST"]
    assert bodies == [{"name": "laptop", "scopes": ["read"], "expires_in_days": 7}, {"overlap_seconds": 0}]


def test_a_lost_token_is_reported(service, potstill, respond):
    created = make_key(token="ps_2_x")
    service.on("POST", "/v1/api-keys", respond(created, 201, cut_after=5), respond({**created, "token": None}, 201))

    with pytest.raises(TokenLost, match=r"key_2 was created.*revoke it"):
        potstill.keys.create("laptop")


def test_the_audit_log_is_paginated(service, potstill, respond):
    pages = [{"data": [{"id": "aud_2"}], "has_more": True}, {"data": [{"id": "aud_1"}], "has_more": False}]
    service.on("GET", "/v1/audit-log", *map(respond, pages))

    assert [entry["id"] for entry in potstill.audit_log(action="job.create")] == ["aud_2", "aud_1"]
    assert service.received[1].query == {"action": ["job.create"], "limit": ["100"], "after": ["aud_2"]}


def test_a_retry_sends_its_changes(service, potstill, respond, make_job):
    service.on("POST", "/v1/jobs/job_1/retry", respond(make_job(status="queued", terminal=False)))

    potstill.jobs.retry("job_1")
    potstill.jobs.retry("job_1", apply_fix=True)
    potstill.jobs.retry("job_1", changes={"training": {"batch_size": 64}})

    plain, fixed, changed = service.received
    assert plain.body == b""
    assert json.loads(fixed.body) == {"apply_fix": True, "changes": {}}
    assert json.loads(changed.body) == {"apply_fix": False, "changes": {"training": {"batch_size": 64}}}


def test_names_are_encoded_in_paths(service, potstill, respond):
    service.on("GET", "/v1/datasets/my%20pets%2F2024%3F", respond({"id": "ds_1"}))
    service.on("POST", "/v1/jobs/a%2Fb/cancel", respond({"id": "job_1"}))

    assert potstill.datasets.get("my pets/2024?")["id"] == "ds_1"
    assert potstill.jobs.post_action("a/b", "cancel")["id"] == "job_1"


def test_paths_may_be_text(service, potstill, respond, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip")
    service.on("POST", "/v1/datasets", respond({"id": "ds_1"}, 202))
    service.on("POST", "/v1/models", respond({"id": "mdl_1"}, 202))

    assert potstill.datasets.upload(str(archive))["id"] == "ds_1"
    assert potstill.models.upload(str(archive), architecture="resnet18")["id"] == "mdl_1"
    assert all(b'filename="pets.zip"' in request.body for request in service.received)


def test_a_missing_file_is_reported_before_a_request(service, potstill, tmp_path):
    for upload in (potstill.datasets.upload, lambda path: potstill.models.upload(path, architecture="resnet18")):
        with pytest.raises(ClientError, match="there is no file"):
            upload(str(tmp_path / "nothing"))
    assert service.received == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "failed", "error": {"code": "x", "message": "the loss is NaN"}}, "failed and has no files .* NaN"),
        ({"status": "cancelled", "error": None}, "is cancelled and has no files"),
        ({"status": "running", "terminal": False, "error": None}, "is running; its files can be downloaded once"),
    ],
)
def test_a_download_without_files_names_the_reason(service, potstill, respond, make_job, tmp_path, changes, sentence):
    service.on("GET", "/v1/jobs/job_1/artifacts", respond({"data": [], "has_more": False}))
    service.on("GET", "/v1/jobs/job_1", respond(make_job(result=None, **changes)))

    with pytest.raises(NotReady, match=sentence):
        potstill.jobs.download("job_1", tmp_path)
