"""The asynchronous client. Its code is the source of the synchronous one, so the paths through it are tested there."""

import asyncio
import hashlib

import pytest

from potstill import AsyncPotstill, calls
from tests.client.conftest import page
from tests.client.test_sdk import event, stream
from tests.support.openapi_documents import make_document

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def run(service, monkeypatch):
    """Run a coroutine with a client."""
    monkeypatch.setattr(calls, "_FIRST_DELAY_SECONDS", 0.001)

    async def with_client(use):
        async with AsyncPotstill(service.url, "ps_key") as client:
            return await use(client)

    return lambda use: asyncio.run(with_client(use))


def test_a_job_is_created_once_watched_and_downloaded(service, run, respond, make_job, tmp_path):
    artifact = make_document(
        "ArtifactOut", name="model.onnx", size_bytes=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest()
    )
    service.on("POST", "/v1/jobs", respond({"code": "unavailable"}, 503), respond(make_job(terminal=False), 201))
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))
    service.on(
        "GET",
        "/v1/jobs/job_1/events",
        respond(body=stream(event(1), event(2)), cut_after=len(stream(event(1))) + 10),
        respond(body=stream(event(2))),
        respond(page(event(1), event(2))),
    )
    service.on("GET", "/v1/jobs/job_1/artifacts", respond(page(artifact)))
    service.on(
        "GET",
        "/v1/jobs/job_1/artifacts/model.onnx",
        respond(body=CONTENT, cut_after=1000),
        respond(body=CONTENT[1000:], status=206),
    )

    async def use(client):
        job = await client.jobs.create({"dataset": "ds_1"})
        seqs = [each.seq async for each in job.events()]
        job = await job.wait(check=True)
        return seqs, await job.download(tmp_path)

    seqs, (path,) = run(use)

    assert seqs == [1, 2]
    assert path.read_bytes() == CONTENT
    created = [request.headers["idempotency-key"] for request in service.received if request.method == "POST"]
    assert len(created) == 2
    assert len(set(created)) == 1


def test_a_folder_is_uploaded(service, run, respond, tmp_path):
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.png").write_bytes(b"png")
    service.on("POST", "/v1/datasets", respond(make_document("DatasetOut", id="ds_1", status="processing"), 202))
    service.on("GET", "/v1/datasets/ds_1", respond(make_document("DatasetOut", id="ds_1", status="ready")))

    async def use(client):
        dataset = await client.datasets.upload(tmp_path / "pets")
        return await dataset.wait()

    assert run(use).status == "ready"
    assert b"cat/1.png" in service.received[0].body


def test_lists_are_asynchronous_iterators(service, run, respond, make_job):
    service.on("GET", "/v1/jobs", respond(page(make_job(id="job_2"), more=True)), respond(page(make_job(id="job_1"))))

    async def use(client):
        return [job.id async for job in client.jobs.list()]

    assert run(use) == ["job_2", "job_1"]
