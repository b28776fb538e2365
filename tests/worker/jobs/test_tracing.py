"""One trace per job: request, queue, attempts and stages, over all their processes."""

import gc
import json
import os
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from api.app import create_app
from core import tracing
from core.store import datasets, ingest_leases, jobs, keys
from tests.support.images import store_band_images
from tests.support.ports import free_port
from worker.claim_loop import run_next
from worker.jobs import child  # noqa: F401 - imported before the fork, as in the pool's process
from worker.jobs.parent import JOBS
from worker.stored_files import publish_folder

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MODEL = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1}


@pytest.fixture
def spans(tmp_path):
    """Record the spans of this process and of those that it forks; return a function that reads them."""
    path, files = tmp_path / "spans", []

    def make_processor():
        out = path.open("a", buffering=1)
        files.append(out)
        return SimpleSpanProcessor(
            ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + os.linesep)
        )

    tracing.configure("test", make_processor=make_processor)
    yield lambda: [json.loads(line) for line in path.read_text().splitlines()]
    tracing.shutdown()
    gc.collect()  # a provider that still exists starts a thread in each process that later tests fork
    for file in files:
        file.close()


@pytest.fixture
def labeled(service, store, tmp_path):
    """Id of a ready dataset with 24 training and 6 test images of three classes."""
    stored = store_band_images(tmp_path, num_train=8, num_test=2)
    dataset_id = service.write(datasets.create, service.project, name="labeled", source={}).id
    claimed = service.write(datasets.claim, worker_id="wrk_test", lease_seconds=60)
    service.write(
        datasets.mark_ready,
        ingest_leases.IngestLeaseToken.from_row(claimed),
        files=publish_folder(store, stored, "datasets/labeled"),
        splits={"train": {"num_samples": 24}, "test": {"num_samples": 6}},
        num_classes=3,
        classes=["band0", "band1", "band2"],
        channels=1,
        image_size=8,
        fingerprint="0" * 64,
        size_bytes=1,
    )
    return dataset_id


class Collector:
    """An OTLP collector on loopback that decodes what it receives."""

    def __init__(self):
        self.received = received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.append((self.path, ExportTraceServiceRequest.FromString(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


def submit(service, dataset):
    """Create a job over HTTP, as a part of the client's trace; return its id."""
    with service.context.database.write() as session:
        token = keys.create(session, service.project, name="k").token
    spec = {
        "dataset": dataset,
        "student": {"architecture": "vit_tiny_patch16_224", "arguments": MODEL},
        "method": {"name": "scratch"},
        "training": {"epochs": 1, "batch_size": 8, "augmentation": "none", "image_size": 8},
        "resources": {"threads": 1},
        "export": ["safetensors"],
    }
    context = service.context
    app = create_app(context.settings, context.database, context.store, context.broker)
    headers = {
        "Authorization": f"Bearer {token}",
        "traceparent": f"00-{TRACE}-{PARENT}-01",
        "X-Request-Id": "my-request",
    }
    with TestClient(app) as client:
        response = client.post("/v1/jobs", json=spec, headers=headers)
    assert response.status_code == 201, response.text
    return response.json()["id"]


def test_all_spans_of_a_job_are_in_the_trace_of_its_request(service, labeled, spans, monkeypatch):
    job_id = submit(service, labeled)
    with monkeypatch.context() as patch:
        patch.setattr(JOBS, "run", lambda _context, _job, _control: os.kill(os.getpid(), signal.SIGKILL))
        run_next(JOBS)
    run_next(JOBS)
    job = service.read(jobs.get, service.project, job_id)
    assert (job.status, job.attempt, job.request_id) == ("succeeded", 2, "my-request"), job.error

    recorded = spans()
    assert {span["context"]["trace_id"] for span in recorded} == {f"0x{TRACE}"}
    by_name = {}
    for span in recorded:
        by_name.setdefault(span["name"], []).append(span)
    (request,) = by_name.pop("POST /v1/jobs")
    assert request["parent_id"] == f"0x{PARENT}"
    (queued,) = by_name.pop("job.queued")
    lost, done = by_name.pop("job.attempt")
    assert {each["parent_id"] for each in (queued, lost, done)} == {request["context"]["span_id"]}
    assert [each["attributes"]["potstill.job.attempt"] for each in (lost, done)] == [1, 2]
    assert (lost["status"]["status_code"], done["status"]["status_code"]) == ("ERROR", "UNSET")
    assert set(by_name) == {f"job.stage {stage['name']}" for stage in job.stages}
    for (stage,) in by_name.values():
        assert stage["parent_id"] == done["context"]["span_id"]
        assert stage["resource"]["attributes"]["process.pid"] != os.getpid()


def test_a_forked_job_process_exports_its_stages(service, labeled, collector, monkeypatch):
    """Its exporter's thread starts after the fork, and it exports the last spans before it exits."""
    job_id = submit(service, labeled)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    tracing.configure("worker", in_background=False)
    try:
        with tracing.span("before the fork"):  # creates a provider, which the process of the job must not use
            pass
        run_next(JOBS)
    finally:
        tracing.shutdown()

    job = service.read(jobs.get, service.project, job_id)
    assert job.status == "succeeded", job.error
    names = {"own": set(), "forked": set()}
    for _, request in collector.received:
        for resource in request.resource_spans:
            pid = next(each.value.int_value for each in resource.resource.attributes if each.key == "process.pid")
            spans = names["own" if pid == os.getpid() else "forked"]
            spans |= {span.name for scope in resource.scope_spans for span in scope.spans}
    assert names["forked"] == {f"job.stage {stage['name']}" for stage in job.stages}
    assert names["own"] >= {"before the fork", "job.attempt"}


def test_without_an_endpoint_traces_are_off(monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    tracing.configure("test")

    assert tracing.provider() is None
    with tracing.span("nothing") as span:
        assert not span.is_recording()
        assert tracing.current_traceparent() is None
    assert tracing.log_fields() == {}


@pytest.mark.parametrize(
    ("environment", "enabled"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
    ],
)
def test_the_standard_variables_enable_traces(monkeypatch, environment, enabled):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert tracing.is_enabled() is enabled


def test_spans_reach_a_collector(monkeypatch, collector):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "my-potstill")
    tracing.configure("worker", in_background=False)
    with tracing.span("job.attempt"):
        pass
    tracing.shutdown()

    ((path, spans),) = collector.received
    assert path == "/v1/traces"
    assert spans.resource_spans[0].scope_spans[0].spans[0].name == "job.attempt"
    attributes = {each.key: each.value.string_value for each in spans.resource_spans[0].resource.attributes}
    assert (attributes["service.name"], attributes["potstill.role"]) == ("my-potstill", "worker")


def test_a_collector_that_is_down_delays_nothing_and_raises_nothing(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    tracing.configure("worker", in_background=False)
    with tracing.span("job.attempt"):
        pass
    tracing.shutdown()
