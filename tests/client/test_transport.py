import re

import httpx
import pytest

from potstill import calls, errors
from potstill._sync.transport import Transport
from potstill.calls import read_call, retry_delay_seconds
from potstill.errors import ApiError, ServerError, ServiceUnreachable
from tests.client.conftest import page
from tests.support.openapi_documents import make_document, openapi

WORKERS = make_document("WorkersOut")
BUSY = {"title": "Busy", "detail": "later", "code": "unavailable", "status": 503}


def test_a_read_is_retried_when_the_service_is_unavailable(service, potstill, respond):
    service.on("GET", "/v1/workers", respond(BUSY, 503), respond(WORKERS))

    assert potstill.service.workers().data == []
    assert len(service.received) == 2


def test_a_create_request_has_the_same_idempotency_key_at_every_attempt(service, potstill, respond, make_job):
    service.on("POST", "/v1/jobs", respond(BUSY, 503), respond(make_job(), 201, cut_after=5), respond(make_job(), 201))

    assert potstill.jobs.create({"dataset": "ds_1"}).id == "job_1"

    keys = {item.headers["idempotency-key"] for item in service.received}
    assert len(service.received) == 3
    assert len(keys) == 1


def test_a_request_in_flight_is_retried(service, potstill, respond, make_job):
    flying = {"title": "t", "detail": "d", "code": "idempotency_key_in_flight"}
    service.on("POST", "/v1/jobs", respond(flying, 409), respond(make_job(), 201))

    assert potstill.jobs.create({}).id == "job_1"


def test_a_job_retry_is_never_sent_twice(service, potstill, respond):
    service.on("POST", "/v1/jobs/job_1/retry", respond(BUSY, 503))

    with pytest.raises(ApiError):
        potstill.jobs.post_action("job_1", "retry")

    assert len(service.received) == 1


def test_a_delete_with_a_broken_response_is_not_retried(service, potstill, respond):
    service.on("DELETE", "/v1/jobs/job_1", respond({"a": "long body"}, cut_after=2))

    with pytest.raises(ServiceUnreachable):
        potstill.jobs.delete("job_1")

    assert len(service.received) == 1


def test_a_client_error_is_not_retried_and_has_fields(service, potstill, respond):
    problem = {
        "title": "The job spec is not valid",
        "detail": "/epochs: unknown",
        "code": "invalid_spec",
        "request_id": "req_1",
        "errors": [{"pointer": "/epochs", "detail": "unknown"}],
    }
    service.on("POST", "/v1/jobs", respond(problem, 422))

    with pytest.raises(ApiError) as caught:
        potstill.jobs.create({})

    assert caught.value.code == "invalid_spec"
    assert caught.value.errors == [{"pointer": "/epochs", "detail": "unknown"}]
    assert caught.value.request_id == "req_1"
    assert len(service.received) == 1


def test_a_response_of_a_proxy_is_an_api_error(service, potstill, respond):
    service.on("GET", "/v1/jobs/job_1", respond(status=404, body=b"<html>nginx</html>"))

    with pytest.raises(ApiError, match="nginx") as caught:
        potstill.jobs.get("job_1")

    assert (caught.value.status, caught.value.code) == (404, "unknown")


def test_an_unreachable_service_is_named(monkeypatch):
    monkeypatch.setattr(calls, "_FIRST_DELAY_SECONDS", 0.001)
    transport = Transport("http://127.0.0.1:9", "key", max_retries=1)

    with pytest.raises(ServiceUnreachable, match=r"127\.0\.0\.1:9"):
        transport.send(read_call("/v1/jobs"))

    transport.close()


def test_retry_after_sets_the_delay(service, potstill, respond, slept):
    service.on("GET", "/v1/workers", respond(BUSY, 503, headers={"Retry-After": "7"}), respond(WORKERS))

    potstill.service.workers()

    assert slept == [7.0]


LIMITED = {"title": "Too many requests", "detail": "later", "code": "rate_limited", "status": 429}


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("GET", "/v1/workers", lambda p: p.service.workers()),
        ("POST", "/v1/jobs/job_1/retry", lambda p: p.jobs.post_action("job_1", "retry")),
        ("DELETE", "/v1/jobs/job_1", lambda p: p.jobs.delete("job_1")),
    ],
)
def test_a_rate_limited_request_is_retried_after_the_delay(
    service, potstill, respond, slept, make_job, method, path, call
):
    service.on(
        method,
        path,
        respond(LIMITED, 429, headers={"Retry-After": "9"}),
        respond(WORKERS if "workers" in path else make_job()),
    )

    call(potstill)

    assert slept == [9.0]
    assert len(service.received) == 2


def test_an_exceeded_quota_is_not_retried(service, potstill, respond):
    service.on("POST", "/v1/jobs", respond({"title": "t", "detail": "full", "code": "quota_exceeded"}, 403))

    with pytest.raises(ApiError, match="quota_exceeded"):
        potstill.jobs.create({})
    assert len(service.received) == 1


def test_retry_delays_grow_up_to_a_limit():
    assert 0.1 <= retry_delay_seconds(0) <= 0.2
    assert 2.5 <= retry_delay_seconds(30) <= 5.0


def test_the_key_is_sent_as_a_bearer_token(service, potstill, respond):
    service.on("GET", "/v1/workers", respond(WORKERS))

    potstill.service.workers()

    assert service.received[0].headers["authorization"] == "Bearer ps_key"


def test_a_key_with_invalid_characters_is_rejected():
    with pytest.raises(ValueError, match="API key"):
        Transport("http://127.0.0.1:9", "ps_ä\n", transport=httpx.MockTransport(lambda _: httpx.Response(200)))


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (422, "invalid_spec", errors.InvalidSpec),
        (422, "a_new_code", errors.InvalidRequest),
        (403, "quota_exceeded", errors.QuotaExceeded),
        (409, "in_use", errors.InUse),
        (404, "in_use", errors.NotFound),  # not the status of the code
        (418, "a_new_code", ApiError),
        (502, "unknown", ServerError),
        (503, "inspector_gone", errors.InspectorUnavailable),
    ],
)
def test_an_error_has_the_class_of_its_code_else_of_its_status(status, code, expected):
    assert type(errors.api_error(status, {"code": code})) is expected


def test_every_code_of_the_api_has_a_class():
    documented = {
        code
        for path in openapi()["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        if status >= "400"
        for code in re.findall(r"^`([a-z_]+)`:", response["description"], flags=re.MULTILINE)
    }

    assert len(documented) > 15
    assert documented - CODES_OF_THEIR_STATUS == {each.CODE for each in errors._BY_CODE.values()} & documented


# Codes that are the only ones of their status: its class is theirs.
CODES_OF_THEIR_STATUS = {
    *("malformed_request", "not_authenticated", "forbidden", "not_found", "method_not_allowed", "conflict"),
    *("payload_too_large", "unsupported_media_type", "range_not_satisfiable", "invalid_request", "rate_limited"),
    *("unavailable", "tus_version_unsupported", "checksum_mismatch"),
}


def test_a_page_that_is_not_json_is_reported(service, potstill, respond):
    service.on("GET", "/v1/workers", respond(body=b"<html>"))

    with pytest.raises(errors.UnexpectedResponse, match="does not answer like Potstill"):
        potstill.service.workers()


def test_a_document_without_a_required_field_is_reported(service, potstill, respond):
    service.on("GET", "/v1/jobs/job_1", respond({"id": "job_1"}))

    with pytest.raises(errors.UnexpectedResponse, match="a Job that this version of the client cannot read"):
        potstill.jobs.get("job_1")


def test_a_list_stops_at_its_limit(service, potstill, respond, make_job):
    service.on("GET", "/v1/jobs", respond(page(make_job(id="job_3"), make_job(id="job_2"), more=True)))

    assert [job.id for job in potstill.jobs.list(limit=2)] == ["job_3", "job_2"]
    assert [request.query["limit"] for request in service.received] == [["2"]]
