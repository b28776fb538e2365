"""The examples of the API reference in curl and JavaScript. `tests/client/test_routes.py` runs those in Python."""

import json
import re
import shutil
import subprocess

import httpx
import pytest

from tests.support.curl import parse_curl
from tests.support.openapi_documents import openapi, operations

NEED_OTHER_PROCESSES = {"/readyz", "/v1/architectures"}
ENVIRONMENT = {"$POTSTILL_URL": "http://service", "$POTSTILL_API_KEY": "ps_1"}


def samples(language):
    """Yield method, path and example of each operation."""
    for method, path in operations():
        found = openapi()["paths"][path][method.lower()]["x-codeSamples"]
        yield method, path, next(each["source"] for each in found if each["label"] == language)


def matches(template, path):
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/{}]+", re.escape(template)), path) is not None


def test_each_curl_command_is_a_request_of_its_operation():
    for method, path, command in samples("curl"):
        sent, url, headers, data, form = parse_curl(command, ENVIRONMENT)
        operation = openapi()["paths"][path][method.lower()]
        required = {(each["in"], each["name"]) for each in operation.get("parameters", ()) if each.get("required")}
        content = operation.get("requestBody", {}).get("content", {})

        assert (sent, matches(path, url.path)) == (method, True), command
        assert {name for place, name in required if place == "query"} == set(url.params), command
        assert {name for place, name in required if place == "header"} <= set(headers), command
        assert ("Authorization" in headers) == path.startswith("/v1/"), command
        if "application/json" in content:
            assert json.loads(data) == content["application/json"]["example"]
        else:
            assert bool(form or data) == bool(content), command


def test_curl_commands_of_the_service_itself_are_accepted(tenant, server):
    """The requests that need no object of the project succeed as they are written."""
    num_sent = 0
    for method, path, command in samples("curl"):
        sent, url, headers, _, _ = parse_curl(command, ENVIRONMENT)
        if method != "GET" or "{" in path or path in NEED_OTHER_PROCESSES:
            continue
        headers["Authorization"] = f"Bearer {tenant.token}"
        response = httpx.request(
            sent, f"{server.url}{url.raw_path.decode()}", headers=headers, timeout=60, trust_env=False
        )
        assert response.status_code == 200, (command, response.text)
        num_sent += 1
    assert num_sent > 10


def test_each_javascript_example_names_its_operation():
    for method, path, source in samples("JavaScript"):
        url = re.search(r"fetch\(`\$\{url\}([^`?]+)", source)[1]
        sent = re.search(r'method: "(\w+)"', source)

        assert matches(path, url), source
        assert (sent[1] if sent else "GET") == method, source


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_the_javascript_examples_are_valid_modules():
    functions = [f"async () => {{\n{source}\n}}" for _, _, source in samples("JavaScript")]
    program = "const url = '', apiKey = '', file = '', part = '';\nvoid [" + ",\n".join(functions) + "];"
    run = subprocess.run(
        ["node", "--check", "--input-type=module", "-"], input=program, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr


def test_every_operation_has_all_three_examples():
    for path, item in openapi()["paths"].items():
        for operation in item.values():
            assert [each["label"] for each in operation["x-codeSamples"]] == ["curl", "Python", "JavaScript"], path
