"""JSON bodies from people who mean it badly: always a 4xx problem, never a crash."""

import json
import re
import tracemalloc

import pytest

from api.request_body import parse_json
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
def test_hostile_json_is_refused(http, path, body):
    answer = http.post(path, content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert len(answer.content) < 20_000


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets"])
def test_a_hundred_thousand_wrong_fields_are_counted_and_not_all_named(http, path):
    """Each would come back with all the fields that there are: 25 times what was sent."""
    answer = http.post(path, json={f"x{number}": 0 for number in range(50_000)})

    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 100
    assert re.search(r"and (49|50)\d{3} more$", answer.json()["detail"])
    assert len(answer.content) < 50_000


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "a/b/c"])
def test_another_content_type_is_415_and_says_what_to_send(http, kind):
    answer = http.post("/v1/jobs", content=b"{}", headers={"Content-Type": kind})

    assert answer.status_code == 415
    assert "application/json" in answer.json()["detail"]


def test_json_without_a_content_type_is_read(http):
    answer = http.post("/v1/jobs", content=b"{}")

    assert answer.status_code == 422
    assert {e["pointer"] for e in answer.json()["errors"]} == {"/dataset", "/student", "/method"}


def test_every_unusable_value_is_pointed_at():
    with pytest.raises(InvalidRequest) as refused:
        parse_json(json.dumps({"a": [1, 2**70], "b/c": "x\0y"}).encode())

    assert {e.pointer for e in refused.value.errors} == {"/a/1", "/b~1c"}


def test_many_values_far_down_take_little_memory():
    """The places of half a million numbers, each two hundred names long, took 850 MB out of a body of one."""
    body = b"[" * 190 + b"0," * 200_000 + b"0" + b"]" * 190
    tracemalloc.start()
    parse_json(body)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 32 * len(body)


def test_the_limits_themselves_are_accepted():
    assert parse_json(f"[{2**63 - 1}, {-(2**63)}]".encode()) == [2**63 - 1, -(2**63)]


def test_nonsense_in_a_form_field_points_at_the_field():
    with pytest.raises(InvalidRequest) as refused:
        parse_json("{", at="/arguments")

    assert refused.value.errors[0].pointer == "/arguments"
    with pytest.raises(MalformedRequest):
        parse_json("{")
