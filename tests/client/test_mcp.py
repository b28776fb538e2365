"""The MCP server, used by the official client in memory."""

import asyncio
import json
from pathlib import Path

import mcp
import pytest

from potstill import AsyncPotstill
from potstill.mcp_server import build_server
from tests.client.conftest import page
from tests.support.openapi_documents import make_document


@pytest.fixture
def use(service):
    """Run a coroutine with a client of the MCP server."""

    async def connect(function, allow_writes):
        potstill = AsyncPotstill(service.url, "ps_key")
        async with potstill, mcp.Client(build_server(potstill, allow_writes=allow_writes)) as client:
            return await function(client)

    return lambda function, allow_writes=False: asyncio.run(connect(function, allow_writes))


def test_without_permission_there_are_only_tools_that_read(use):
    async def tools(client):
        return (await client.list_tools()).tools

    reading, all_tools = use(tools), use(tools, allow_writes=True)

    assert all(tool.annotations.read_only_hint for tool in reading)
    assert {tool.name for tool in all_tools} - {tool.name for tool in reading} == {
        *("submit_job", "submit_sweep", "change_job", "retry_job", "add_dataset", "download_student"),
        *("create_webhook", "test_webhook", "push_student"),
    }
    assert all(tool.description for tool in all_tools)
    page = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
    assert [tool.name for tool in all_tools if f"`{tool.name}`" not in page] == []


def test_an_agent_estimates_submits_watches_and_compares(use, service, respond, make_job):
    service.on("POST", "/v1/estimates", respond(make_document("EstimateOut", total_steps=90)))
    service.on("POST", "/v1/jobs", respond(make_job(status="queued", terminal=False), 201))
    service.on("GET", "/v1/jobs/job_1", respond(make_job()))
    spec = {"dataset": "digits", "method": {"name": "kd"}}

    async def work(client):
        submitted = await client.call_tool("submit_job", {"spec": spec})
        watched = await client.call_tool("watch_job", {"job_id": "job_1", "wait_seconds": 600})
        compared = await client.call_tool("compare_jobs", {"job_ids": ["job_1"]})
        return [result.structured_content for result in (submitted, watched, compared)]

    submitted, watched, compared = use(work, allow_writes=True)

    assert submitted["estimate"]["total_steps"] == 90
    assert submitted["job"]["status"] == "queued"
    assert watched["status"] == "succeeded"
    assert compared["result"][0]["student"]["top1"] == 0.91
    assert [json.loads(request.body) for request in service.received if request.method == "POST"] == [spec, spec]
    assert service.received[2].query == {"wait": ["50"]}


def test_errors_of_the_service_reach_the_agent(use, service, respond):
    problem = {"code": "invalid_spec", "detail": "x", "errors": [{"pointer": "/student", "detail": "is missing"}]}
    quoted = {**problem, "detail": "/student: is missing"}
    service.on("POST", "/v1/estimates", respond(problem, 422), respond(quoted, 422))
    service.on("GET", "/v1/methods", respond(page(make_document("MethodOut", name="kd"))))

    async def work(client):
        failed = await client.call_tool("estimate_job", {"spec": {}})
        repeated = await client.call_tool("estimate_job", {"spec": {}})
        return failed, repeated, await client.call_tool("list_methods", {"search": "k"})

    failed, repeated, methods = use(work)

    assert failed.is_error
    assert "invalid_spec: x\n/student: is missing" in failed.content[0].text
    assert repeated.content[0].text.count("/student: is missing") == 1
    assert methods.structured_content["result"][0]["name"] == "kd"


def test_a_secret_goes_to_a_private_file_and_not_to_the_agent(use, service, respond, tmp_path):
    created = make_document("NewWebhookOut", id="wh_1", secret="whsec_1")
    service.on("POST", "/v1/webhooks", respond({"code": "invalid_request", "detail": "x", "errors": []}, 422))
    service.on("POST", "/v1/webhooks", respond(created, 201))
    path = tmp_path / "secret"
    arguments = {"url": "https://example.com", "secret_file": str(path), "events": ["tracking.finished"]}

    async def work(client):
        refused = await client.call_tool("create_webhook", arguments)
        assert not path.exists()
        accepted = await client.call_tool("create_webhook", arguments)
        return refused, accepted, await client.call_tool("create_webhook", arguments)

    refused, accepted, repeated = use(work, allow_writes=True)

    assert (refused.is_error, accepted.is_error, repeated.is_error) == (True, False, True)
    assert "cannot be created: File exists" in repeated.content[0].text
    assert "whsec_1" not in str(accepted)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("whsec_1", 0o600)


def test_a_student_is_pushed_with_the_token_of_the_environment(use, service, respond, monkeypatch):
    done = make_document("PushOut", id="psh_1", job="job_1", status="succeeded")
    service.on("POST", "/v1/jobs/job_1/push", respond(done, 202))
    service.on("GET", "/v1/jobs/job_1/pushes/psh_1", respond(done))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    async def push(client):
        return await client.call_tool("push_student", {"job_id": "job_1", "repo": "acme/pets"})

    refused = use(push, allow_writes=True)
    monkeypatch.setenv("HF_TOKEN", "hf_1")
    pushed = use(push, allow_writes=True)

    assert (refused.is_error, "HF_TOKEN" in refused.content[0].text) == (True, True)
    assert pushed.structured_content["status"] == "succeeded"
    (request,) = [each for each in service.received if each.method == "POST"]
    assert json.loads(request.body) == {"repo": "acme/pets", "token": "hf_1", "private": True}
