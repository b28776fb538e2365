import httpx
import pytest

from client import transport as transport_module
from client.errors import ApiError, ServiceUnreachable
from client.transport import Transport, retry_delay_seconds

BUSY = {"title": "Busy", "detail": "later", "code": "unavailable", "status": 503}


def test_a_read_is_retried_when_the_service_is_unavailable(service, potstill, respond):
    service.on("GET", "/v1/workers", respond(BUSY, 503), respond({"data": []}))

    assert potstill.workers() == {"data": []}
    assert len(service.received) == 2


def test_a_create_request_has_the_same_idempotency_key_at_every_attempt(service, potstill, respond, make_job):
    service.on("POST", "/v1/jobs", respond(BUSY, 503), respond(make_job(), 201, cut_after=5), respond(make_job(), 201))

    assert potstill.jobs.submit({"dataset": "ds_1"})["id"] == "job_1"

    keys = {item.headers["idempotency-key"] for item in service.received}
    assert len(service.received) == 3
    assert len(keys) == 1


def test_a_request_in_flight_is_retried(service, potstill, respond, make_job):
    flying = {"title": "t", "detail": "d", "code": "idempotency_key_in_flight"}
    service.on("POST", "/v1/jobs", respond(flying, 409), respond(make_job(), 201))

    assert potstill.jobs.submit({})["id"] == "job_1"


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
        potstill.jobs.submit({})

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
    monkeypatch.setattr(transport_module, "_FIRST_DELAY_SECONDS", 0.001)
    transport = Transport("http://127.0.0.1:9", "key", max_retries=1)

    with pytest.raises(ServiceUnreachable, match=r"127\.0\.0\.1:9"):
        transport.get("/v1/jobs")

    transport.close()


def test_retry_after_sets_the_delay(service, potstill, respond, monkeypatch):
    slept = []
    monkeypatch.setattr(transport_module.time, "sleep", slept.append)
    service.on("GET", "/v1/workers", respond(BUSY, 503, headers={"Retry-After": "7"}), respond({}))

    potstill.workers()

    assert slept == [7.0]


LIMITED = {"title": "Too many requests", "detail": "later", "code": "rate_limited", "status": 429}


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("GET", "/v1/workers", lambda p: p.workers()),
        ("POST", "/v1/jobs/job_1/retry", lambda p: p.jobs.post_action("job_1", "retry")),
        ("DELETE", "/v1/jobs/job_1", lambda p: p.jobs.delete("job_1")),
    ],
)
def test_a_rate_limited_request_is_retried_after_the_delay(service, potstill, respond, monkeypatch, method, path, call):
    slept = []
    monkeypatch.setattr(transport_module.time, "sleep", slept.append)
    service.on(method, path, respond(LIMITED, 429, headers={"Retry-After": "9"}), respond({}))

    call(potstill)

    assert slept == [9.0]
    assert len(service.received) == 2


def test_an_exceeded_quota_is_not_retried(service, potstill, respond):
    service.on("POST", "/v1/jobs", respond({"title": "t", "detail": "full", "code": "quota_exceeded"}, 403))

    with pytest.raises(ApiError, match="quota_exceeded"):
        potstill.jobs.submit({})
    assert len(service.received) == 1


def test_retry_delays_grow_up_to_a_limit():
    assert 0.1 <= retry_delay_seconds(0) <= 0.2
    assert 2.5 <= retry_delay_seconds(30) <= 5.0


def test_the_key_is_sent_as_a_bearer_token(service, potstill, respond):
    service.on("GET", "/v1/workers", respond({}))

    potstill.workers()

    assert service.received[0].headers["authorization"] == "Bearer ps_key"


def test_a_key_with_invalid_characters_is_rejected():
    with pytest.raises(ValueError, match="API key"):
        Transport("http://127.0.0.1:9", "ps_ä\n", transport=httpx.MockTransport(lambda _: httpx.Response(200)))
