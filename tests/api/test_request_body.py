"""Hostile JSON bodies get a 4xx problem and never crash the service; every route declares its body."""

import json
import re
import tracemalloc

import pytest
from fastapi import APIRouter
from fastapi.routing import iter_route_contexts

import api.app
from api.deps import Reader
from api.rate_limit import rate_class
from api.request_body import declared_body, parse_json
from core.errors import InvalidRequest, MalformedRequest

DEEP = b'{"a":' * 100_000
HOSTILE = {
    "empty": b"",
    "spaces": b"   ",
    "not JSON": b"{not json",
    "cut off": b'{"name": "x',
    "two documents": b"{} {}",
    "invalid UTF-8": b'{"name": "\xff\xfe"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "lone surrogate": b'{"name": "\\ud800"}',
    "too deep": DEEP,
    "balanced and too deep": b"[" * 5000 + b"]" * 5000,
    "a number of a million digits": b'{"priority": ' + b"9" * 900_000 + b"}",
    "NaN": b'{"priority": NaN}',
    "infinity": b'{"priority": 1e999}',
    "null": b"null",
    "a list": b"[]",
    "a text": b'"spec"',
    "a number": b"1",
    "beyond 64 bits": b'{"priority": 123456789012345678901234567890}',
    "NUL": b'{"name": "a\\u0000b"}',
    "NUL in a name": b'{"metadata": {"a\\u0000b": "x"}}',
}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/estimates", "/v1/datasets"])
@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_json_is_rejected(http, path, body):
    response = http.post(path, content=body, headers={"Content-Type": "application/json"})

    assert response.status_code in {400, 422}, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["detail"]
    assert len(response.content) < 20_000


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets"])
def test_only_the_first_hundred_of_many_wrong_fields_are_named(http, path):
    """Each error lists all valid fields, so the response could be 25 times as large as the request."""
    response = http.post(path, json={f"x{number}": 0 for number in range(50_000)})

    assert response.status_code == 422
    assert len(response.json()["errors"]) == 100
    assert re.search(r"and (49|50)\d{3} more$", response.json()["detail"])
    assert len(response.content) < 50_000


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/b/c"]
)
def test_another_content_type_is_415_and_names_the_right_one(http, media_type):
    response = http.post("/v1/jobs", content=b"{}", headers={"Content-Type": media_type})

    assert response.status_code == 415
    assert "application/json" in response.json()["detail"]


def test_json_without_a_content_type_is_accepted(http):
    response = http.post("/v1/jobs", content=b"{}")

    assert response.status_code == 422
    assert {e["pointer"] for e in response.json()["errors"]} == {"/dataset", "/student", "/method"}


def test_errors_point_at_every_unusable_value():
    with pytest.raises(InvalidRequest) as caught:
        parse_json(json.dumps({"a": [1, 2**70], "b/c": "x\0y"}).encode())

    assert {e.pointer for e in caught.value.errors} == {"/a/1", "/b~1c"}


def test_many_deeply_nested_values_need_little_memory():
    """The locations of half a million values at depth 200 would need 850 MB for a body of 1 MB."""
    body = b"[" * 190 + b"0," * 200_000 + b"0" + b"]" * 190
    tracemalloc.start()
    parse_json(body)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 32 * len(body)


def test_the_largest_and_smallest_integers_are_accepted():
    assert parse_json(f"[{2**63 - 1}, {-(2**63)}]".encode()) == [2**63 - 1, -(2**63)]


def test_invalid_json_in_a_form_field_points_at_the_field():
    with pytest.raises(InvalidRequest) as caught:
        parse_json("{", at="/arguments")

    assert caught.value.errors[0].pointer == "/arguments"
    with pytest.raises(MalformedRequest):
        parse_json("{")


def test_every_v1_route_with_a_body_declares_it(server):
    document = server.app.openapi()
    methods = {"POST", "PUT", "PATCH"}
    routes = [
        route
        for route in iter_route_contexts(server.app.routes)
        if route.path.startswith("/v1/") and route.methods & methods
    ]
    bodies = {route.endpoint.__name__: declared_body(route.endpoint) for route in routes}

    assert len(routes) >= 10
    for route in routes:
        (method,) = route.methods
        operation = document["paths"][route.path][method.lower()]
        assert operation.get("requestBody", {}).get("content", {}) == bodies[route.endpoint.__name__].content, (
            route.path
        )
    assert set(bodies["create_dataset"].content) == {"application/json", "multipart/form-data"}
    assert bodies["pause_job"].content == {}


def test_a_route_without_a_declared_body_fails_at_start_up(server, monkeypatch):
    router = APIRouter()

    @router.post("/v1/things")
    @rate_class("writes")
    async def create_thing(_: Reader):
        """An endpoint without a body declaration."""

    monkeypatch.setattr(api.app, "_ROUTERS", (*api.app._ROUTERS, router))

    with pytest.raises(RuntimeError, match=r"POST /v1/things \(create_thing\) declares no request body; .*@no_body"):
        api.app.create_app(server.settings, server.database, server.store, server.broker)
