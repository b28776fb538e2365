"""Heads of requests that never end, against uvicorn as the API runs it."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn

from server import header_limits
from server.header_limits import BoundedHeads

BODY = b"x" * 300_000


async def app(scope, receive, send):
    """Answers how long the body was."""
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
    server = uvicorn.Server(uvicorn.Config(app, http=BoundedHeads, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


@contextmanager
def connection(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5) as made:
        yield made


def send_all(made, pieces):
    """Send what is taken; True where the other side has closed before the end."""
    try:
        for piece in pieces:
            made.sendall(piece)
    except OSError:
        return True
    return False


def answer(made):
    """All that comes until the other side closes."""
    found = b""
    try:
        while piece := made.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"a" * 50_000_000,
        b"".join(b"X-%d: a\r\n" % number for number in range(3_000_000)),
    ],
    ids=["one header", "many headers"],
)
def test_a_head_that_never_ends_is_cut_off(port, head):
    began = time.monotonic()
    with connection(port) as made:
        pieces = (head[at : at + 100_000] for at in range(0, len(head), 100_000))

        assert send_all(made, [b"GET / HTTP/1.1\r\nHost: x\r\n", *pieces])
    assert time.monotonic() - began < 2.0


def test_the_refusal_says_what_is_wrong(port):
    with connection(port) as made:
        made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        time.sleep(0.1)
        made.sendall(b"a" * (header_limits.MOST_BYTES + 1))

        assert answer(made).startswith(b"HTTP/1.1 431 ")


def test_trailers_that_never_end_are_cut_off_too(port):
    with connection(port) as made:
        made.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ")

        assert send_all(made, [b"a" * 100_000] * 100)


def test_a_head_that_drips_is_given_up_in_time(port, monkeypatch):
    monkeypatch.setattr(header_limits, "MOST_SECONDS", 0.3)
    for beginning in (b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHos"):
        began = time.monotonic()
        with connection(port) as made:
            made.sendall(beginning)
            answer(made)

        assert time.monotonic() - began < 3.0


def test_an_answer_is_not_broken_off_by_a_slow_head_behind_it(port, monkeypatch):
    monkeypatch.setattr(header_limits, "MOST_SECONDS", 0.2)
    with connection(port) as made:
        made.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET / HT")

        assert answer(made).endswith(b"\r\n\r\n0")


def test_ordinary_requests_are_served_one_after_the_other(port):
    head = b"POST / HTTP/1.1\r\nHost: x\r\nX: %s\r\n" % (b"a" * 20_000)
    whole = head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n" % (len(BODY), BODY) * 3 + b"0\r\n\r\n"
    with connection(port) as made:
        made.sendall(whole + chunked + whole + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        found = answer(made)

    assert [part.rsplit(b"\r\n", 1)[-1] for part in found.split(b"HTTP/1.1 ")[1:]] == [
        b"300000",
        b"900000",
        b"300000",
        b"0",
    ]
