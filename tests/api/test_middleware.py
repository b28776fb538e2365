"""The outermost layer: request ids, body limits, and no exception without an answer."""

import socket

import pytest

from api.middleware import RequestMiddleware


def test_every_answer_has_a_request_id_and_problems_repeat_it(http):
    fine, missing = http.get("/healthz"), http.get("/v1/nothing")

    assert fine.headers["X-Request-Id"].startswith("req_")
    assert missing.headers["X-Request-Id"] == missing.json()["request_id"]
    assert missing.headers["Content-Type"] == "application/problem+json"
    assert missing.json()["status"] == 404


def test_a_usable_request_id_is_kept_and_others_are_replaced(http):
    assert http.get("/healthz", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    assert http.get("/healthz", headers={"X-Request-Id": 'x"\t{}'}).headers["X-Request-Id"].startswith("req_")


def test_a_method_that_is_not_allowed_names_those_that_are(http):
    answer = http.put("/v1/jobs")

    assert answer.status_code == 405
    assert answer.json()["code"] == "method_not_allowed"
    assert set(answer.headers["Allow"].split(", ")) >= {"GET"}


def test_a_json_body_beyond_a_megabyte_is_413(http):
    answer = http.post("/v1/jobs", content=b'"' + b"x" * 1_100_000 + b'"', headers={"Content-Type": "application/json"})

    assert answer.status_code == 413
    assert answer.json()["code"] == "payload_too_large"


def test_a_body_that_never_announced_its_length_is_bounded_too(http):
    blocks = (b"x" * 100_000 for _ in range(50))
    answer = http.post("/v1/jobs", content=blocks, headers={"Content-Type": "application/json"})

    assert answer.status_code == 413
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize("length", ["-1", "abc", "9" * 40])
def test_a_mad_content_length_is_no_crash(server, length):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)

    assert answer == b"" or answer.split(b" ")[1].startswith(b"4")


async def _crash(scope, receive, send):
    raise RuntimeError("a secret detail")


async def _crash_halfway(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("a secret detail")


def _run(app):
    import asyncio

    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    edge = RequestMiddleware(app, observe=lambda *_: None, body_limit=lambda _: 10)
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "query_string": b""}
    asyncio.run(edge(scope, receive, send))
    return sent


def test_a_bug_of_ours_is_a_500_that_tells_nothing_of_the_inside():
    start, body = _run(_crash)

    assert start["status"] == 500
    assert b"internal_error" in body["body"]
    assert b"secret" not in body["body"]
    assert dict(start["headers"])[b"x-request-id"].startswith(b"req_")


def test_half_an_answer_ends_with_a_broken_connection():
    with pytest.raises(RuntimeError):
        _run(_crash_halfway)
