import httpx
import pytest

from client.errors import ApiError, ServiceUnreachable
from client.transport import Transport, pause_seconds

BUSY = {"title": "Busy", "detail": "later", "code": "unavailable", "status": 503}


def test_a_read_is_tried_again_when_the_service_is_busy(service, potstill, answer):
    service.on("GET", "/v1/workers", answer(BUSY, 503), answer({"data": []}))

    assert potstill.workers() == {"data": []}
    assert len(service.received) == 2


def test_a_creating_request_carries_the_same_idempotency_key_at_every_try(service, potstill, answer, make_job):
    service.on("POST", "/v1/jobs", answer(BUSY, 503), answer(make_job(), 201, cut_after=5), answer(make_job(), 201))

    assert potstill.jobs.submit({"dataset": "ds_1"})["id"] == "job_1"

    keys = {one.headers["idempotency-key"] for one in service.received}
    assert len(service.received) == 3
    assert len(keys) == 1


def test_a_request_still_in_flight_is_waited_for(service, potstill, answer, make_job):
    flying = {"title": "t", "detail": "d", "code": "idempotency_key_in_flight"}
    service.on("POST", "/v1/jobs", answer(flying, 409), answer(make_job(), 201))

    assert potstill.jobs.submit({})["id"] == "job_1"


def test_a_retry_of_a_job_is_never_sent_twice(service, potstill, answer):
    service.on("POST", "/v1/jobs/job_1/retry", answer(BUSY, 503))

    with pytest.raises(ApiError):
        potstill.jobs.move("job_1", "retry")

    assert len(service.received) == 1


def test_a_broken_answer_to_a_deletion_is_not_sent_again(service, potstill, answer):
    service.on("DELETE", "/v1/jobs/job_1", answer({"a": "long body"}, cut_after=2))

    with pytest.raises(ServiceUnreachable):
        potstill.jobs.delete("job_1")

    assert len(service.received) == 1


def test_a_refusal_is_not_tried_again_and_tells_the_fields(service, potstill, answer):
    problem = {
        "title": "The job spec is not valid",
        "detail": "/epochs: unknown",
        "code": "invalid_spec",
        "request_id": "req_1",
        "errors": [{"pointer": "/epochs", "detail": "unknown"}],
    }
    service.on("POST", "/v1/jobs", answer(problem, 422))

    with pytest.raises(ApiError) as caught:
        potstill.jobs.submit({})

    assert caught.value.code == "invalid_spec"
    assert caught.value.errors == [{"pointer": "/epochs", "detail": "unknown"}]
    assert caught.value.request_id == "req_1"
    assert len(service.received) == 1


def test_an_answer_of_something_in_between_is_still_an_api_error(service, potstill, answer):
    service.on("GET", "/v1/jobs/job_1", answer(status=404, body=b"<html>nginx</html>"))

    with pytest.raises(ApiError, match="nginx") as caught:
        potstill.jobs.get("job_1")

    assert (caught.value.status, caught.value.code) == (404, "unknown")


def test_a_service_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("client.transport._FIRST_PAUSE_SECONDS", 0.001)
    transport = Transport("http://127.0.0.1:9", "key", max_retries=1)

    with pytest.raises(ServiceUnreachable, match=r"127\.0\.0\.1:9"):
        transport.get("/v1/jobs")

    transport.close()


def test_the_service_may_say_how_long_to_wait(service, potstill, answer, monkeypatch):
    slept = []
    monkeypatch.setattr("client.transport.time.sleep", slept.append)
    service.on("GET", "/v1/workers", answer(BUSY, 503, headers={"Retry-After": "7"}), answer({}))

    potstill.workers()

    assert slept == [7.0]


LIMITED = {"title": "Too many requests", "detail": "later", "code": "rate_limited", "status": 429}


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("GET", "/v1/workers", lambda p: p.workers()),
        ("POST", "/v1/jobs/job_1/retry", lambda p: p.jobs.move("job_1", "retry")),
        ("DELETE", "/v1/jobs/job_1", lambda p: p.jobs.delete("job_1")),
    ],
)
def test_whatever_was_one_too_many_is_sent_again_when_the_service_says(
    service, potstill, answer, monkeypatch, method, path, call
):
    slept = []
    monkeypatch.setattr("client.transport.time.sleep", slept.append)
    service.on(method, path, answer(LIMITED, 429, headers={"Retry-After": "9"}), answer({}))

    call(potstill)

    assert slept == [9.0]
    assert len(service.received) == 2


def test_a_quota_that_is_used_up_is_not_tried_again(service, potstill, answer):
    service.on("POST", "/v1/jobs", answer({"title": "t", "detail": "full", "code": "quota_exceeded"}, 403))

    with pytest.raises(ApiError, match="quota_exceeded"):
        potstill.jobs.submit({})
    assert len(service.received) == 1


def test_pauses_grow_up_to_a_limit():
    assert 0.1 <= pause_seconds(0) <= 0.2
    assert 2.5 <= pause_seconds(30) <= 5.0


def test_the_key_goes_along_as_a_bearer_token(service, potstill, answer):
    service.on("GET", "/v1/workers", answer({}))

    potstill.workers()

    assert service.received[0].headers["authorization"] == "Bearer ps_key"


def test_a_key_that_no_header_can_carry_is_refused_before_it_is_sent():
    with pytest.raises(ValueError, match="API key"):
        Transport("http://127.0.0.1:9", "ps_ä\n", transport=httpx.MockTransport(lambda _: httpx.Response(200)))
