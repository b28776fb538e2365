"""Endless request headers, sent to uvicorn in the API's configuration."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

from server import header_limits
from server.header_limits import HeaderLimitsProtocol

BODY = b"x" * 300_000


async def app(scope, receive, send):
    """Respond with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        await asyncio.sleep(0.6)
    text = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(text))]})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture(scope="module")
def port():
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=HeaderLimitsProtocol, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


@contextmanager
def connection(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        yield client


def send_all(client, pieces):
    """Send pieces; return True if the server closes the connection before the end."""
    try:
        for piece in pieces:
            client.sendall(piece)
    except OSError:
        return True
    return False


def read_response(client):
    """Read until the server closes the connection."""
    response = b""
    try:
        while piece := client.recv(65_536):
            response += piece
    except ConnectionResetError:
        pass
    return response


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"a" * 50_000_000,
        b"".join(b"X-%d: a\r\n" % number for number in range(3_000_000)),
    ],
    ids=["one header", "many headers"],
)
def test_an_endless_header_closes_the_connection(port, head):
    started_at = time.monotonic()
    with connection(port) as client:
        pieces = (head[at : at + 100_000] for at in range(0, len(head), 100_000))

        assert send_all(client, [b"GET / HTTP/1.1\r\nHost: x\r\n", *pieces])
    assert time.monotonic() - started_at < 2.0


def test_a_too_large_header_gets_status_431(port):
    with connection(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        time.sleep(0.1)
        client.sendall(b"a" * (header_limits.MAX_HEADER_BYTES + 1))

        assert read_response(client).startswith(b"HTTP/1.1 431 ")


def test_endless_trailers_close_the_connection(port):
    with connection(port) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ")

        assert send_all(client, [b"a" * 100_000] * 100)


def test_a_slow_header_closes_the_connection(port, monkeypatch):
    monkeypatch.setattr(header_limits, "HEADER_TIMEOUT_SECONDS", 0.3)
    for beginning in (b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHos"):
        started_at = time.monotonic()
        with connection(port) as client:
            client.sendall(beginning)
            read_response(client)

        assert time.monotonic() - started_at < 3.0


def test_a_slow_next_header_does_not_interrupt_a_response(port, monkeypatch):
    monkeypatch.setattr(header_limits, "HEADER_TIMEOUT_SECONDS", 0.2)
    with connection(port) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")

        assert read_response(client).endswith(b"\r\n\r\n0")


def test_pipelined_requests_are_served_in_order(port):
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX: %s\r\n" % (b"a" * 20_000)
    request = head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n" % (len(BODY), BODY) * 3 + b"0\r\n\r\n"
    with connection(port) as client:
        client.sendall(request + chunked + request + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        response = read_response(client)

    assert [part.rsplit(b"\r\n", 1)[-1] for part in response.split(b"HTTP/1.1 ")[1:]] == [
        b"300000",
        b"900000",
        b"300000",
        b"0",
    ]
