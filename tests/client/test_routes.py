"""SDK and command line reach every route of the API. A new route needs a method, a command and a line here."""

import asyncio
import hashlib
import inspect
import re
import runpy
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import typer.main

from potstill import AsyncPotstill, Potstill
from potstill.cli import app, options
from potstill.cli.routes import COMMANDS
from tests.support.openapi_documents import make_document, openapi, operations, response_schema

CONTENT = b"weights"
FILE = {"size_bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
# Documents that lead a caller to its next request.
DOCUMENTS = {
    "DatasetOut": {"status": "ready"},
    "ModelOut": {"status": "ready"},
    "JobOut": {"id": "job_1", "status": "succeeded", "terminal": True},
    "ArtifactOut": {"name": "model.safetensors", **FILE},
    "CheckpointOut": {"id": "ckpt_1", **FILE},
    "NewApiKeyOut": {"token": "ps_1"},
    "ApiKeyOut": {"id": "key_1"},
    "UploadOut": {"id": "up_1", "status": "receiving", "size_bytes": 7, "received_bytes": 0},
    "DirectUploadOut": {"url": "http://bucket/file"},
    "NewWebhookOut": {"secret": "whsec_1"},
    "SweepOut": {"id": "swp_1", "terminal": True},
    "SweepSummaryOut": {"id": "swp_1", "name": "tune"},
    "WebhookOut": {"id": "wh_1", "name": "hook"},
    "DeliveryOut": {"id": "evt_1"},
    "PushOut": {"id": "push_1", "status": "succeeded", "error": None},
}
# Calls of the SDK; `p` is a client, `f` a folder with `data.zip` and `weights.safetensors`.
CALLS = {
    "GET /healthz": lambda p, f: p.service.health(),
    "GET /readyz": lambda p, f: p.service.ready(),
    "GET /metrics": lambda p, f: p.service.prometheus_metrics(),
    "GET /v1/api-keys": lambda p, f: p.keys.list(),
    "POST /v1/api-keys": lambda p, f: p.keys.create("laptop"),
    "GET /v1/api-keys/{key_id}": lambda p, f: p.keys.get("key_1"),
    "DELETE /v1/api-keys/{key_id}": lambda p, f: p.keys.revoke("key_1"),
    "POST /v1/api-keys/{key_id}/rotate": lambda p, f: p.keys.rotate("key_1"),
    "GET /v1/architectures": lambda p, f: p.architectures.list("vit"),
    "GET /v1/audit-log": lambda p, f: p.service.audit_log(),
    "GET /v1/datasets": lambda p, f: p.datasets.list(search="pets"),
    "POST /v1/datasets": lambda p, f: p.datasets.upload(f / "data.zip"),
    "GET /v1/datasets/{dataset_id}": lambda p, f: p.datasets.wait("pets"),
    "DELETE /v1/datasets/{dataset_id}": lambda p, f: p.datasets.delete("pets"),
    "GET /v1/datasets/{dataset_id}/images/{split}/{index}": lambda p, f: p.datasets.image("pets", "train", 0),
    "POST /v1/estimates": lambda p, f: p.jobs.estimate({}),
    "GET /v1/jobs": lambda p, f: p.jobs.list(status="failed"),
    "POST /v1/jobs": lambda p, f: p.jobs.create({}),
    "GET /v1/jobs/{job_id}": lambda p, f: p.jobs.wait("job_1"),
    "DELETE /v1/jobs/{job_id}": lambda p, f: p.jobs.delete("job_1"),
    "GET /v1/jobs/{job_id}/artifacts": lambda p, f: p.jobs.artifacts("job_1"),
    "GET /v1/jobs/{job_id}/artifact-urls/{name}": lambda p, f: p.jobs.artifact_url("job_1", "model.onnx"),
    "GET /v1/jobs/{job_id}/artifacts/{name}": lambda p, f: p.jobs.download("job_1", f / "student"),
    "POST /v1/jobs/{job_id}/cancel": lambda p, f: p.jobs.cancel("job_1"),
    "GET /v1/jobs/{job_id}/checkpoints": lambda p, f: p.jobs.checkpoints("job_1"),
    "GET /v1/jobs/{job_id}/checkpoints/{checkpoint_id}/model.safetensors": lambda p, f: p.jobs.download_checkpoint(
        "job_1", "ckpt_1", f / "checkpoint"
    ),
    "GET /v1/jobs/{job_id}/download": lambda p, f: p.jobs.download_zip("job_1", f / "all.zip"),
    "GET /v1/jobs/{job_id}/events": lambda p, f: p.jobs.past_events("job_1"),
    "GET /v1/jobs/{job_id}/logs": lambda p, f: p.jobs.logs("job_1"),
    "GET /v1/jobs/{job_id}/metrics": lambda p, f: p.jobs.metrics("job_1"),
    "POST /v1/jobs/{job_id}/pause": lambda p, f: p.jobs.pause("job_1"),
    "POST /v1/jobs/{job_id}/predictions": lambda p, f: p.jobs.predict("job_1", f / "data.zip"),
    "POST /v1/jobs/{job_id}/push": lambda p, f: p.jobs.push("job_1", "acme/pets", token="hf_1"),
    "GET /v1/jobs/{job_id}/pushes": lambda p, f: p.jobs.pushes("job_1"),
    "GET /v1/jobs/{job_id}/pushes/{push_id}": lambda p, f: p.jobs.wait_for_push("job_1", "push_1"),
    "POST /v1/jobs/{job_id}/resume": lambda p, f: p.jobs.resume("job_1"),
    "POST /v1/jobs/{job_id}/retry": lambda p, f: p.jobs.retry("job_1", apply_fix=True),
    "POST /v1/jobs/{job_id}/stop": lambda p, f: p.jobs.stop("job_1"),
    "GET /v1/methods": lambda p, f: p.methods.list(),
    "GET /v1/methods/recommend": lambda p, f: p.methods.recommend(teacher="cnn", student="transformer", num_images=9),
    "GET /v1/methods/{name}": lambda p, f: p.methods.get("kd"),
    "GET /v1/models": lambda p, f: p.models.list(search="vit"),
    "POST /v1/models": lambda p, f: p.models.upload(f / "weights.safetensors", architecture="resnet18"),
    "GET /v1/models/{model_id}": lambda p, f: p.models.wait("mdl_1"),
    "DELETE /v1/models/{model_id}": lambda p, f: p.models.delete("mdl_1"),
    "GET /v1/models/{model_id}/lineage": lambda p, f: p.models.lineage("mdl_1"),
    "GET /v1/sweeps": lambda p, f: p.sweeps.list(),
    "POST /v1/sweeps": lambda p, f: p.sweeps.create({}, {"training.epochs": [1, 2]}),
    "POST /v1/sweeps/estimate": lambda p, f: p.sweeps.estimate({}, points=[{"method": {"name": "kd"}}]),
    "GET /v1/sweeps/{sweep_id}": lambda p, f: p.sweeps.wait("swp_1"),
    "DELETE /v1/sweeps/{sweep_id}": lambda p, f: p.sweeps.delete("swp_1"),
    "POST /v1/sweeps/{sweep_id}/cancel": lambda p, f: p.sweeps.cancel("swp_1"),
    "GET /v1/uploads": lambda p, f: p.uploads.list(),
    "OPTIONS /v1/uploads": lambda p, f: p.uploads.limits(),
    "POST /v1/uploads": lambda p, f: p.uploads.create(7, "data.zip"),
    "GET /v1/uploads/{upload_id}": lambda p, f: p.uploads.get("up_1"),
    "PATCH /v1/uploads/{upload_id}": lambda p, f: p.uploads.send(f / "data.zip"),
    "DELETE /v1/uploads/{upload_id}": lambda p, f: p.uploads.delete("up_1"),
    "POST /v1/uploads/{upload_id}/direct": lambda p, f: p.uploads.send_direct(f / "data.zip"),
    "POST /v1/uploads/{upload_id}/complete": lambda p, f: p.uploads.complete("up_1", "0" * 64),
    "GET /v1/usage": lambda p, f: p.service.usage(),
    "GET /v1/usage/history": lambda p, f: p.service.usage_history(days=7),
    "GET /v1/webhooks": lambda p, f: p.webhooks.list(),
    "POST /v1/webhooks": lambda p, f: p.webhooks.create("https://example.com/hook", events=["job.failed"]),
    "GET /v1/webhooks/{webhook_id}": lambda p, f: p.webhooks.get("wh_1"),
    "PATCH /v1/webhooks/{webhook_id}": lambda p, f: p.webhooks.change("wh_1", status="disabled"),
    "DELETE /v1/webhooks/{webhook_id}": lambda p, f: p.webhooks.delete("wh_1"),
    "GET /v1/webhooks/{webhook_id}/deliveries": lambda p, f: p.webhooks.deliveries("wh_1", status="failed"),
    "GET /v1/webhooks/{webhook_id}/deliveries/{delivery_id}": lambda p, f: p.webhooks.get_delivery("wh_1", "evt_1"),
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": lambda p, f: p.webhooks.redeliver(
        "wh_1", "evt_1"
    ),
    "POST /v1/webhooks/{webhook_id}/rotate": lambda p, f: p.webhooks.rotate("wh_1", overlap_seconds=0),
    "POST /v1/webhooks/{webhook_id}/test": lambda p, f: p.webhooks.test("wh_1"),
    "GET /v1/workers": lambda p, f: p.service.workers(),
}
# Arguments of the commands; `{f}` is the folder.
ARGUMENTS = {
    "GET /v1/api-keys/{key_id}": "key_1",
    "POST /v1/api-keys": "laptop",
    "DELETE /v1/api-keys/{key_id}": "key_1",
    "POST /v1/api-keys/{key_id}/rotate": "key_1",
    "GET /v1/architectures": "vit",
    "POST /v1/datasets": "{f}/data.zip",
    "GET /v1/datasets/{dataset_id}/images/{split}/{index}": "pets train 0 --out {f}/image",
    "POST /v1/estimates": "{f}/spec.json --set training.epochs=3",
    "POST /v1/jobs": "{f}/spec.json --set training.epochs=3",
    "GET /v1/jobs/{job_id}/artifacts/{name}": "job_1 --out {f}/student",
    "GET /v1/jobs/{job_id}/artifact-urls/{name}": "job_1 model.onnx",
    "POST /v1/sweeps": "{f}/spec.json --grid training.epochs=1,2",
    "POST /v1/sweeps/estimate": "{f}/spec.json --grid training.epochs=1,2",
    "POST /v1/jobs/{job_id}/push": "job_1 acme/pets --token hf_1 --no-wait",
    "GET /v1/jobs/{job_id}/pushes/{push_id}": "job_1 acme/pets --token hf_1",
    "POST /v1/uploads": "{f}/data.zip",
    "GET /v1/uploads/{upload_id}": "up_1",
    "PATCH /v1/uploads/{upload_id}": "{f}/data.zip",
    "DELETE /v1/uploads/{upload_id}": "up_1",
    "POST /v1/uploads/{upload_id}/direct": "{f}/data.zip",
    "POST /v1/uploads/{upload_id}/complete": "{f}/data.zip",
    "POST /v1/webhooks": "https://example.com/hook --events job.failed",
    "PATCH /v1/webhooks/{webhook_id}": "hook --status disabled",
    "GET /v1/webhooks/{webhook_id}/deliveries/{delivery_id}": "hook evt_",
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver": "hook evt_",
    "GET /v1/jobs/{job_id}/checkpoints/{checkpoint_id}/model.safetensors": "ckpt_1 job_1 --out {f}/checkpoint",
    "GET /v1/jobs/{job_id}/download": "job_1 --out {f}/all",
    "POST /v1/jobs/{job_id}/predictions": "job_1 {f}/data.zip",
    "GET /v1/methods/recommend": "cnn transformer 2000",
    "GET /v1/methods/{name}": "kd",
    "POST /v1/models": "{f}/weights.safetensors --architecture resnet18",
}


class DocumentedService:
    """Answers each request with a document that its OpenAPI schema describes, and records the route."""

    def __init__(self, **documents):
        self.routes = set()
        self.documents = {**DOCUMENTS, **documents}
        self.upload = dict(DOCUMENTS["UploadOut"])
        patterns = {route: re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route[1])) for route in operations()}
        # A route without parameters comes before `/v1/methods/{name}`, which also matches its path.
        self.patterns = sorted(patterns.items(), key=lambda item: item[0][1].count("{"))

    def answer(self, request):
        if request.url.host == "bucket":
            assert "authorization" not in request.headers
            return httpx.Response(200)
        method, path = next(
            route
            for route, pattern in self.patterns
            if route[0] == request.method and re.fullmatch(pattern, request.url.path)
        )
        self.routes.add(f"{method} {path}")
        if method == "PATCH" and "uploads" in path:
            self.upload |= {"status": "complete", "received_bytes": 7}
        status, media_type, schema = response_schema(method, path)
        if media_type == "application/json":
            return httpx.Response(status, json=self.document(schema) if schema else None)
        return httpx.Response(status, content=b"text" if media_type.startswith("text") else CONTENT)

    def document(self, schema):
        name = schema["$ref"].rpartition("/")[2]
        if not name.startswith("Page_"):
            return make_document(name, **(self.upload if name == "UploadOut" else self.documents.get(name, {})))
        item = openapi()["components"]["schemas"][name]["properties"]["data"]["items"]
        return {"object": "list", "data": [self.document(item)], "has_more": False}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("data.zip", "weights.safetensors", "image.png"):
        (tmp_path / name).write_bytes(b"content")
    (tmp_path / "spec.json").write_text('{"dataset": "pets"}')
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def one_command():
    """Build the command once; typer builds it at each call."""
    command = typer.main.get_command(app.app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", lambda _app: command)
        yield


def routes():
    return {f"{method} {path}" for method, path in operations()}


def test_every_route_has_a_call_and_a_command():
    assert set(CALLS) == routes()
    assert set(COMMANDS) == routes()


@pytest.mark.parametrize("route", CALLS)
def test_the_sdk_calls_the_route(route, folder):
    service = DocumentedService()
    with Potstill("http://service", "ps_1", transport=httpx.MockTransport(service.answer)) as client:
        result = CALLS[route](client, folder)
        if isinstance(result, Iterator):
            list(result)

    assert route in service.routes


def test_the_asynchronous_sdk_calls_every_route(folder):
    service = DocumentedService()

    async def call_all():
        async with AsyncPotstill("http://service", "ps_1", transport=httpx.MockTransport(service.answer)) as client:
            for call in CALLS.values():
                result = call(client, folder)
                if isinstance(result, AsyncIterator):
                    assert len([item async for item in result]) == 1
                else:
                    assert inspect.isawaitable(result)
                    await result

    asyncio.run(call_all())

    assert service.routes == routes()


def test_the_python_example_of_each_operation_calls_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for name, value in (("POTSTILL_URL", "http://service"), ("POTSTILL_API_KEY", "ps_1")):
        monkeypatch.setenv(name, value)
    for method, path in operations():
        samples = {each["lang"]: each["source"] for each in openapi()["paths"][path][method.lower()]["x-codeSamples"]}
        service = DocumentedService(CheckpointOut={"id": "CHECKPOINT_ID", **FILE})
        transport = httpx.MockTransport(service.answer)
        monkeypatch.setattr("potstill.Potstill", partial(Potstill, transport=transport))

        exec(samples["Python"], {})
        shutil.rmtree("student", ignore_errors=True)  # a file that is complete is not downloaded again

        assert f"{method} {path}" in service.routes, samples["Python"]
    assert capsys.readouterr().out


@pytest.mark.parametrize("route", COMMANDS)
@pytest.mark.parametrize("form", ["text", "JSON"])
def test_the_command_calls_the_route(route, form, folder, monkeypatch, capsys):
    service = DocumentedService()
    transport = httpx.MockTransport(service.answer)
    monkeypatch.setattr(options, "Potstill", partial(Potstill, "http://service", "ps_1", transport=transport))
    names = {"{job_id}": "job_1", "{webhook_id}": "hook", "{sweep_id}": "tune"}
    default = next((name for key, name in names.items() if key in route), "pets")
    arguments = ARGUMENTS.get(route, default if "_id}" in route else "")
    is_plain = (
        route == "OPTIONS /v1/uploads" or route.startswith("DELETE") or "/images/" in route
    )  # no document to print
    as_json = ["--json"] if form == "JSON" and not is_plain else []
    argv = ["potstill", *COMMANDS[route].split(), *arguments.format(f=folder).split(), *as_json]
    monkeypatch.setattr(sys, "argv", argv)

    with pytest.raises(SystemExit) as caught:
        app.main()

    assert not caught.value.code, capsys.readouterr().err
    assert route in service.routes


def test_the_example_uses_every_resource(tmp_path):
    service = DocumentedService()
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "sdk_tour.py"))

    with Potstill("http://service", "ps_1", transport=httpx.MockTransport(service.answer)) as client:
        resources = {path.split("/")[2] for _, path in operations() if path.startswith("/v1/")}
        example["main"](client, tmp_path)

    assert {route.split("/")[2] for route in service.routes if "/v1/" in route} >= resources
