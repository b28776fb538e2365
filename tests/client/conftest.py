"""A real HTTP server with responses defined by the tests."""

import json
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from potstill import Potstill, calls
from potstill._sync import runtime
from tests.support.openapi_documents import make_document


@dataclass
class Response:
    """A response. The connection breaks after ``cut_after`` bytes of the body."""

    document: object = None
    status: int = 200
    body: bytes | None = None
    headers: dict = field(default_factory=dict)
    cut_after: int | None = None

    def content(self) -> bytes:
        return json.dumps(self.document).encode() if self.body is None else self.body


@dataclass
class Request:
    method: str
    path: str
    query: dict
    headers: dict
    body: bytes


class FakeService:
    """Returns the responses of each (method, path) in order; the last one repeats."""

    def __init__(self):
        self.responses = defaultdict(list)
        self.received = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def serve(self):
                service.serve(self)

            do_GET = do_POST = do_PATCH = do_DELETE = serve  # noqa: N815 - names of the standard library

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def on(self, method, path, *responses):
        self.responses[method, path] += responses

    def serve(self, handler):
        url = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if handler.headers.get("Transfer-Encoding") == "chunked":
            body = read_chunks(handler.rfile)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        received = Request(handler.command, url.path, parse_qs(url.query), headers, body)
        self.received.append(received)
        queue = self.responses[handler.command, url.path]
        response = queue.pop(0) if len(queue) > 1 else queue[0]
        if callable(response):
            response = response(received)
        content = response.content()
        handler.send_response(response.status)
        for name, value in {"Content-Type": "application/json", **response.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: response.cut_after])
        if response.cut_after is not None:
            handler.wfile.flush()
            handler.close_connection = True
            handler.connection.shutdown(1)

    def paths(self):
        return [(request.method, request.path) for request in self.received]

    def stop(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def read_chunks(stream):
    body = b""
    while size := int(stream.readline(), 16):
        body += stream.read(size)
        stream.readline()
    stream.readline()
    return body


@pytest.fixture
def service():
    fake = FakeService()
    yield fake
    fake.stop()


@pytest.fixture
def respond():
    """The class of responses."""
    return Response


@pytest.fixture
def slept(monkeypatch):
    """Delays of the synchronous client, which does not wait."""
    delays = []
    monkeypatch.setattr(runtime, "time", SimpleNamespace(sleep=delays.append))
    return delays


@pytest.fixture
def potstill(service, monkeypatch):
    monkeypatch.setattr(calls, "_FIRST_DELAY_SECONDS", 0.001)
    with Potstill(service.url, "ps_key") as client:
        yield client


@pytest.fixture
def make_job():
    def make(**changes):
        job = make_document(
            "JobOut",
            id="job_1",
            name="a job",
            status="succeeded",
            terminal=True,
            stage="export",
            stages=[{"name": "distill", "started_at": None, "finished_at": None, "seconds": 12.0}],
            progress=make_document(
                "ProgressOut", fraction=1.0, step=10, total_steps=10, epoch=1, images_per_second=99.0
            ),
            result=make_document("ResultOut", model="mdl_1", student=metrics(0.91), teachers=[metrics(0.97)])
            | {"agreement": 0.93},
        )
        return job | changes

    return make


def metrics(top1):
    return {
        "top1": top1,
        "top5": 0.99,
        "parameters": 205_000,
        "flops": 8.1e6,
        "size_bytes": 834_112,
        "latency_ms": 0.61,
    }


def page(*documents, more=False):
    """A page of a list."""
    return {"object": "list", "data": list(documents), "has_more": more}
