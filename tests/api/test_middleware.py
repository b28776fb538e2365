"""Request ids, body limits, and a response to every exception."""

import socket

import pytest

from api.middleware import RequestMiddleware


def test_every_response_has_a_request_id_and_problems_contain_it(http):
    fine, missing = http.get("/healthz"), http.get("/v1/nothing")

    assert fine.headers["X-Request-Id"].startswith("req_")
    assert missing.headers["X-Request-Id"] == missing.json()["request_id"]
    assert missing.headers["Content-Type"] == "application/problem+json"
    assert missing.json()["status"] == 404


def test_a_valid_request_id_is_used_and_others_are_replaced(http):
    assert http.get("/healthz", headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
    assert http.get("/healthz", headers={"X-Request-Id": 'x"\t{}'}).headers["X-Request-Id"].startswith("req_")


def test_a_405_lists_the_allowed_methods(http):
    response = http.put("/v1/jobs")

    assert response.status_code == 405
    assert response.json()["code"] == "method_not_allowed"
    assert set(response.headers["Allow"].split(", ")) >= {"GET"}


def test_a_json_body_beyond_a_megabyte_is_413(http):
    response = http.post(
        "/v1/jobs", content=b'"' + b"x" * 1_100_000 + b'"', headers={"Content-Type": "application/json"}
    )

    assert response.status_code == 413
    assert response.json()["code"] == "payload_too_large"


def test_a_body_without_content_length_is_limited(http):
    blocks = (b"x" * 100_000 for _ in range(50))
    response = http.post("/v1/jobs", content=blocks, headers={"Content-Type": "application/json"})

    assert response.status_code == 413
    assert response.headers["X-Request-Id"]


@pytest.mark.parametrize("length", ["-1", "abc", "9" * 40])
def test_an_invalid_content_length_is_a_4xx(server, length):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        connection.shutdown(socket.SHUT_WR)
        response = connection.recv(4096)

    assert response == b"" or response.split(b" ")[1].startswith(b"4")


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

    middleware = RequestMiddleware(app, observe=lambda *_: None, body_limit=lambda _: 10)
    scope = {"type": "http", "method": "GET", "path": "/x", "headers": [], "query_string": b""}
    asyncio.run(middleware(scope, receive, send))
    return sent


def test_an_unexpected_exception_is_a_500_without_details():
    start, body = _run(_crash)

    assert start["status"] == 500
    assert b"internal_error" in body["body"]
    assert b"secret" not in body["body"]
    assert dict(start["headers"])[b"x-request-id"].startswith(b"req_")


def test_an_exception_after_the_response_started_is_raised():
    with pytest.raises(RuntimeError):
        _run(_crash_halfway)
