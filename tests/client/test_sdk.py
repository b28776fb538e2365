import json
from datetime import UTC, datetime

import pytest

from potstill.errors import ApiError, IngestFailed, InvalidArgument, JobFailed, NotReady, TokenLost
from tests.client.conftest import page
from tests.support.openapi_documents import make_document

pytestmark = pytest.mark.usefixtures("slept")


def event(seq, **more):
    return make_document("EventOut", id=f"evt_{seq}", seq=seq, message=f"m{seq}", level="info") | more


def stream(*events):
    return "".join(
        f"id: {item['seq']}\nevent: {item['type']}\ndata: {json.dumps(item)}\n\n" for item in events
    ).encode()


def dataset(**changes):
    return make_document("DatasetOut", id="ds_1", name="pets") | changes


def model(**changes):
    return make_document("ModelOut", id="mdl_1") | changes


def test_lists_are_paginated_lazily(service, potstill, respond, make_job):
    first = page(make_job(id="job_3"), make_job(id="job_2"), more=True)
    service.on("GET", "/v1/jobs", respond(first), respond(page(make_job(id="job_1"))))

    listed = potstill.jobs.list(status="failed")

    assert next(listed).id == "job_3"
    assert len(service.received) == 1
    assert [job.id for job in listed] == ["job_2", "job_1"]
    assert service.received[1].query == {"status": ["failed"], "limit": ["100"], "after": ["job_2"]}


def test_filters_of_jobs_are_sent(service, potstill, respond, make_job):
    service.on("GET", "/v1/jobs", respond(page(make_job())))

    filters = {"method": ["kd", "dkd"], "metadata": {"team": "search"}, "sort": "top1", "order": "asc"}
    listed = list(potstill.jobs.list(**filters, created_after=datetime(2026, 11, 1, tzinfo=UTC), limit=5))

    query = service.received[0].query
    assert len(listed) == 1
    assert datetime.fromisoformat(query.pop("created_after")[0]) == datetime(2026, 11, 1, tzinfo=UTC)
    expected = {"method": ["kd", "dkd"], "metadata": ["team:search"], "sort": ["top1"], "order": ["asc"]}
    assert query == {**expected, "limit": ["5"]}


def test_a_job_waits_until_it_is_terminal(service, potstill, respond, make_job):
    service.on("POST", "/v1/jobs", respond(make_job(terminal=False, status="queued"), 201))
    service.on("GET", "/v1/jobs/job_1", respond(make_job(terminal=False, status="running")), respond(make_job()))

    assert potstill.jobs.create({"dataset": "ds_1"}).wait().status == "succeeded"
    assert service.received[1].query == {"wait": ["30"]}


def test_wait_times_out(service, potstill, respond, make_job):
    service.on("GET", "/v1/jobs/job_1", respond(make_job(terminal=False, status="running")))

    with pytest.raises(NotReady, match="still running after 0 s; the job goes on"):
        potstill.jobs.wait("job_1", timeout_seconds=0.0)


def test_a_checked_wait_raises_the_error_of_the_job(service, potstill, respond, make_job):
    error = make_document("JobFailure", code="non_finite_loss", message="the loss is NaN", advice="Halve it.")
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="failed", error=error, result=None)))

    with pytest.raises(JobFailed, match="job_1 failed: the loss is NaN") as caught:
        potstill.jobs.wait("job_1", check=True)
    assert (caught.value.status, caught.value.code, caught.value.advice) == ("failed", "non_finite_loss", "Halve it.")


def test_a_job_has_its_actions(service, potstill, respond, make_job):
    service.on("GET", "/v1/jobs/job_1", respond(make_job(status="running", terminal=False)))
    for action in ("cancel", "pause", "resume", "stop", "retry"):
        service.on("POST", f"/v1/jobs/job_1/{action}", respond(make_job(status="queued")))
    service.on("DELETE", "/v1/jobs/job_1", respond(status=204, body=b""))

    job = potstill.jobs.get("job_1")
    changed = [job.cancel(), job.pause(), job.resume(), job.stop(), job.retry()]
    job.delete()

    assert {each.status for each in changed} == {"queued"}
    assert job.status == "running", "the object itself does not change"
    assert len(service.received) == 7


def test_a_broken_event_stream_resumes_without_a_gap(service, potstill, respond, make_job):
    complete = stream(event(1), event(2), event(3))
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        respond(body=complete, cut_after=len(stream(event(1))) + 10),
        respond(body=stream(event(2), event(3))),
        respond(page(event(1), event(2), event(3))),
    )
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))

    assert [item.seq for item in potstill.jobs.events("job_1")] == [1, 2, 3]
    assert service.received[1].headers["last-event-id"] == "1"


def test_events_missing_from_the_stream_are_read_from_the_list(service, potstill, respond, make_job):
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        respond(body=stream(event(1))),
        respond(page(event(1), event(2))),
    )
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))

    assert [item.seq for item in potstill.jobs.events("job_1")] == [1, 2]


def test_a_stream_closed_by_a_stopping_service_is_reopened(service, potstill, respond, make_job):
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        respond(body=stream(event(1))),
        respond(body=stream(event(2))),
        respond(page()),
    )
    service.on("GET", "/v1/jobs/job_1", respond(make_job(terminal=False)), respond(make_job()))

    assert [item.seq for item in potstill.jobs.events("job_1")] == [1, 2]


def test_events_and_waits_go_on_after_an_outage_longer_than_the_retries(service, potstill, respond, make_job, slept):
    outage = [respond({"code": "unavailable"}, 503)] * 12
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        *(respond(body=stream(event(1))), *outage, respond(body=stream(event(2))), respond(page(event(1), event(2)))),
    )
    service.on("GET", "/v1/jobs/job_1", *outage, respond(make_job()))
    running, ended = (make_document("SweepOut", id="swp_1", terminal=terminal) for terminal in (False, True))
    service.on("GET", "/v1/sweeps/swp_1", respond(running), *outage, respond(ended))

    assert [item.seq for item in potstill.jobs.events("job_1")] == [1, 2]
    assert potstill.sweeps.wait("swp_1").terminal


def test_an_outage_to_begin_with_is_an_error(service, potstill, respond, slept):
    for path in ("/v1/jobs/job_1/events", "/v1/sweeps/swp_1"):
        service.on("GET", path, respond({"code": "unavailable"}, 503))

    with pytest.raises(ApiError, match="unavailable"):
        list(potstill.jobs.events("job_1"))
    with pytest.raises(ApiError, match="unavailable"):
        potstill.sweeps.wait("swp_1")


@pytest.mark.parametrize("job_id", ["", ".", ".."])
def test_an_id_that_leads_to_another_path_is_not_sent(service, potstill, job_id):
    with pytest.raises(InvalidArgument, match="neither an id nor a name"):
        potstill.jobs.delete(job_id)
    assert service.received == []


def test_events_of_an_unknown_job_are_an_error(service, potstill, respond):
    service.on("GET", "/v1/jobs/job_1/events", respond({"title": "t", "detail": "d", "code": "not_found"}, 404))

    with pytest.raises(ApiError, match="not_found"):
        list(potstill.jobs.events("job_1"))


def test_an_upload_is_sent_completely_at_every_attempt(service, potstill, respond, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip" * 1000)
    service.on("POST", "/v1/datasets", respond({"code": "unavailable"}, 503), respond(dataset(), 202))
    reports = []

    created = potstill.datasets.upload(archive, progress=lambda *counts: reports.append(counts))

    assert created.id == "ds_1"
    for received in service.received:
        assert b"zip" * 1000 in received.body
        assert b'name="name"\r\n\r\npets\r\n' in received.body
        assert b'name="labels"' not in received.body
    assert reports.count((0, 3000)) == 2
    assert reports[-1] == (3000, 3000)


def test_the_choice_of_the_folders_is_sent(service, potstill, respond, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip")
    service.on("POST", "/v1/datasets", respond(dataset(), 202))
    folders = {"train": "seg_train", "test": "seg_test"}

    potstill.datasets.upload(archive, splits=folders, class_from="parent", labels="none")
    potstill.datasets.create_from_url("https://example.com/pets.zip", splits=folders)

    upload, url = service.received
    assert b'name="splits"\r\n\r\n{"train": "seg_train", "test": "seg_test"}\r\n' in upload.body
    assert b'name="class_from"\r\n\r\nparent\r\n' in upload.body
    assert b'name="labels"\r\n\r\nnone\r\n' in upload.body
    assert json.loads(url.body)["source"]["splits"] == folders


def test_a_dataset_url_is_sent(service, potstill, respond):
    service.on("POST", "/v1/datasets", respond(dataset(), 202))

    potstill.datasets.create_from_url("https://example.com/pets.zip")
    potstill.datasets.create_from_url("https://example.com/pets.zip", name="mine", labels="none")

    plain, named = (json.loads(received.body) for received in service.received)
    assert plain == {"source": {"type": "url", "url": "https://example.com/pets.zip"}}
    assert named == {
        "name": "mine",
        "source": {"type": "url", "url": "https://example.com/pets.zip", "labels": "none"},
    }


def test_a_model_upload_sends_its_fields(service, potstill, respond, tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"weights")
    service.on("POST", "/v1/models", respond(model(status="processing"), 202))
    service.on("GET", "/v1/models/mdl_1", respond(model(status="ready")))

    created = potstill.models.upload(
        file, architecture="resnet18", arguments={"num_classes": 3}, classes=["a", "b", "c"]
    )

    assert created.wait().status == "ready"
    body = service.received[0].body
    assert b'name="arguments"\r\n\r\n{"num_classes": 3}\r\n' in body
    assert b'name="classes"\r\n\r\n["a", "b", "c"]\r\n' in body


def test_wait_returns_a_ready_dataset(service, potstill, respond):
    service.on("GET", "/v1/datasets/ds_1", respond(dataset(status="processing")), respond(dataset(status="ready")))

    assert potstill.datasets.wait("ds_1").status == "ready"


def test_wait_raises_the_reason_of_a_failed_dataset(service, potstill, respond):
    failed = dataset(status="failed", error={"code": "no_images", "message": "no images in it"})
    service.on("GET", "/v1/datasets/ds_1", respond(failed))

    with pytest.raises(IngestFailed, match="dataset ds_1 failed: no images in it") as caught:
        potstill.datasets.wait("ds_1")
    assert caught.value.code == "no_images"


def test_a_dataset_that_is_not_ready_in_time_is_reported(service, potstill, respond):
    service.on("GET", "/v1/datasets/ds_1", respond(dataset(status="processing")))

    with pytest.raises(NotReady, match="still processing"):
        potstill.datasets.wait("ds_1", timeout_seconds=0.0)


def test_a_missing_artifact_is_reported(service, potstill, respond, tmp_path):
    service.on("GET", "/v1/jobs/job_1/artifacts", respond(page(make_document("ArtifactOut", name="model.onnx"))))

    with pytest.raises(InvalidArgument, match=r"no model\.int8\.onnx; it has model\.onnx"):
        potstill.jobs.download("job_1", tmp_path, names=["model.int8.onnx"])


def test_metrics_become_a_table_with_named_columns(service, potstill, respond):
    series = [
        {"name": "train/loss", "points": [[1, 2.0], [2, 1.5]]},
        {"name": "eval/top1", "points": [[2, 0.5], [4, None]]},
    ]
    service.on("GET", "/v1/jobs/job_1/metrics", respond({"object": "metrics", "series": series}))

    metrics = potstill.jobs.metrics("job_1", max_points=10)
    table = metrics.to_pandas()

    assert service.received[0].query == {"max_points": ["10"]}
    assert metrics["train/loss"].points == [(1, 2.0), (2, 1.5)]
    assert list(table.columns) == ["train/loss", "eval/top1"]
    assert table.index.name == "step"
    assert table.loc[2].tolist() == [1.5, 0.5]
    assert table["eval/top1"].isna().tolist() == [True, False, True]
    with pytest.raises(InvalidArgument, match="there are train/loss, eval/top1"):
        metrics["val/loss"]


def test_methods_architectures_and_estimates_are_read(service, potstill, respond):
    service.on("GET", "/v1/methods", respond(page(make_document("MethodOut", name="kd"))))
    service.on("GET", "/v1/architectures", respond(page(make_document("ArchitectureOut", name="deit"))))
    service.on("POST", "/v1/estimates", respond(make_document("EstimateOut", total_steps=5)))

    assert [method.name for method in potstill.methods.list()] == ["kd"]
    assert [each.name for each in potstill.architectures.list("deit", limit=3)] == ["deit"]
    assert potstill.jobs.estimate({"a": 1}).total_steps == 5
    assert service.received[1].query == {"search": ["deit"], "limit": ["3"]}


def make_key(**changes):
    return make_document("NewApiKeyOut", id="key_2") | changes


def test_a_key_is_made_rotated_and_revoked(service, potstill, respond):
    service.on("POST", "/v1/api-keys", respond(make_key(token="ps_2_x"), 201))
    service.on("POST", "/v1/api-keys/key_2/rotate", respond(make_key(id="key_3", token="ps_3_x"), 201))
    service.on("DELETE", "/v1/api-keys/key_3", respond(status=204, body=b""))
    service.on("GET", "/v1/api-keys", respond(page(make_key())))

    assert potstill.keys.create("laptop", scopes=["read"], expires_in_days=7).token == "ps_2_x"
    assert potstill.keys.rotate("key_2", overlap_seconds=0).token == "ps_3_x"
    potstill.keys.revoke("key_3")
    assert [key.id for key in potstill.keys.list()] == ["key_2"]

    bodies = [json.loads(item.body) for item in service.received if item.method == "POST"]
    assert bodies == [{"name": "laptop", "scopes": ["read"], "expires_in_days": 7}, {"overlap_seconds": 0}]


def test_a_lost_token_is_reported(service, potstill, respond):
    lost = respond(make_key(token=None), 201)
    service.on("POST", "/v1/api-keys", respond(make_key(token="ps_2_x"), 201, cut_after=5), lost)

    with pytest.raises(TokenLost, match=r"key_2 was created.*revoke it"):
        potstill.keys.create("laptop")


def test_the_audit_log_is_paginated(service, potstill, respond):
    entries = [make_document("AuditEntryOut", id=each) for each in ("aud_2", "aud_1")]
    service.on("GET", "/v1/audit-log", respond(page(entries[0], more=True)), respond(page(entries[1])))

    assert [entry.id for entry in potstill.service.audit_log(action="job.create")] == ["aud_2", "aud_1"]
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


def test_names_are_encoded_in_paths(service, potstill, respond, make_job):
    service.on("GET", "/v1/datasets/my%20pets%2F2024%3F", respond(dataset()))
    service.on("POST", "/v1/jobs/a%2Fb/cancel", respond(make_job()))

    assert potstill.datasets.get("my pets/2024?").id == "ds_1"
    assert potstill.jobs.cancel("a/b").id == "job_1"


def test_paths_may_be_text(service, potstill, respond, tmp_path):
    archive = tmp_path / "pets.zip"
    archive.write_bytes(b"zip")
    service.on("POST", "/v1/datasets", respond(dataset(), 202))
    service.on("POST", "/v1/models", respond(model(), 202))

    assert potstill.datasets.upload(str(archive)).id == "ds_1"
    assert potstill.models.upload(str(archive), architecture="resnet18").id == "mdl_1"
    assert all(b'filename="pets.zip"' in request.body for request in service.received)


def test_a_missing_file_is_reported_before_a_request(service, potstill, tmp_path):
    for upload in (potstill.datasets.upload, lambda path: potstill.models.upload(path, architecture="resnet18")):
        with pytest.raises(InvalidArgument, match="there is no file"):
            upload(str(tmp_path / "nothing"))
    assert service.received == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "failed"}, "failed and has no files .* NaN"),
        ({"status": "cancelled"}, "is cancelled and has no files"),
        ({"status": "running", "terminal": False}, "is running; its files can be downloaded once"),
    ],
)
def test_a_download_without_files_names_the_reason(service, potstill, respond, make_job, tmp_path, changes, sentence):
    error = make_document("JobFailure", message="the loss is NaN") if changes["status"] == "failed" else None
    service.on("GET", "/v1/jobs/job_1/artifacts", respond(page()))
    service.on("GET", "/v1/jobs/job_1", respond(make_job(result=None, error=error, **changes)))

    with pytest.raises(NotReady, match=sentence):
        potstill.jobs.download("job_1", tmp_path)
