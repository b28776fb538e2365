"""Model endpoints."""

import json
import struct

import pytest

from core.store import models


def safetensors(header=None, data=b"\0" * 8):
    document = header or {"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text)) + text + data


def post(http, content=None, headers=None, **fields):
    form = {"architecture": "resnet18", "arguments": '{"num_classes": 2}', **fields}
    sent = {name: value for name, value in form.items() if value is not None}
    return http.post(
        "/v1/models", data=sent, files={"file": ("w.safetensors", content or safetensors())}, headers=headers
    )


def test_an_upload_is_processing_until_it_is_checked(server, http, tenant):
    response = post(
        http, name="mine", classes='["cat", "dog"]', normalization='{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'
    )
    model = response.json()
    with server.database.read() as session:
        key = models.get(session, tenant.project_id, model["id"]).upload_key

    assert response.status_code == 202
    assert model["id"].startswith("mdl_")
    assert (model["object"], model["name"], model["status"], model["job"]) == ("model", "mine", "processing", None)
    assert (model["arguments"], model["classes"]) == ({"num_classes": 2}, ["cat", "dog"])
    assert http.get(f"/v1/models/{model['id']}").json() == model
    assert http.get("/v1/models").json()["data"] == [model]
    assert b"".join(server.store.open(key)) == safetensors()
    assert server.broker.was_sent("models")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x95" + b"0" * 64,
        b"PK\x03\x04" + b"0" * 64,
        b"hello",
        b"\x80",
        safetensors(b'{"w": ' * 5000),
        struct.pack("<Q", 2**40) + b"{}",
    ],
)
def test_other_files_than_safetensors_are_rejected_at_once(http, content):
    _assert_rejected(http, content, "model_not_safetensors")


@pytest.mark.parametrize(
    "content",
    [
        safetensors()[:-1],
        safetensors(data=b"\0" * 9),
        safetensors({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}),
        safetensors({"w": {"dtype": "X", "shape": [2], "data_offsets": [0, 8]}}),
        safetensors(b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}'),
        safetensors(b"{}", b""),
    ],
)
def test_an_invalid_header_is_rejected_at_once(http, content):
    _assert_rejected(http, content, "model_header_invalid")


def _assert_rejected(http, content, code):
    response = post(http, content)

    assert (response.status_code, response.json()["code"]) == (415, code)
    assert "safetensors" in response.json()["detail"]
    assert http.get("/v1/models").json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"architecture": None}, "/architecture"),
        ({"architecture": "x" * 201}, "/architecture"),
        ({"arguments": "{"}, "/arguments"),
        ({"arguments": "[1]"}, "/arguments"),
        ({"arguments": "1e999"}, "/arguments"),
        ({"arguments": '{"a": 1' + "0" * 30 + "}"}, "/arguments/a"),
        ({"arguments": '{"pretrained": true}'}, "/arguments/pretrained"),
        ({"arguments": '{"checkpoint_path": "/etc/passwd"}'}, "/arguments/checkpoint_path"),
        ({"normalization": '{"mean": [0.5]}'}, "/normalization/std"),
        ({"normalization": '{"mean": [0.5], "std": [0]}'}, "/normalization/std/0"),
        ({"classes": '{"a": 1}'}, "/classes"),
        ({"classes": '["", "b"]'}, "/classes/0"),
        ({"architecure": "x"}, "/architecure"),
        ({"name": ""}, "/name"),
    ],
)
def test_an_invalid_field_is_named(http, fields, pointer):
    response = post(http, **fields)

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == pointer


def test_an_unknown_architecture_is_rejected_with_suggestions(http):
    response = post(http, architecture="resnett18")

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/architecture"
    assert "resnet18" in response.json()["detail"]


def test_empty_optional_fields_are_accepted(http):
    assert post(http, arguments="", classes="", normalization="").status_code == 202


def test_json_without_an_upload_is_422(http):
    response = http.post("/v1/models", json={"architecture": "resnet18"})

    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["/upload"]


def test_other_media_types_are_415(http):
    response = http.post("/v1/models", content=b"x", headers={"Content-Type": "text/plain"})

    assert response.status_code == 415
    assert response.json()["code"] == "unsupported_media_type"


def test_the_same_idempotency_key_creates_one_model(http):
    first, second = (post(http, headers={"Idempotency-Key": "k"}) for _ in range(2))

    assert first.json()["id"] == second.json()["id"]
    assert post(http, name="other", headers={"Idempotency-Key": "k"}).json()["code"] == "idempotency_key_reused"


def test_deleting_a_model_deletes_its_file(server, http):
    model_id = post(http).json()["id"]

    assert http.delete(f"/v1/models/{model_id}").status_code == 204
    assert http.get(f"/v1/models/{model_id}").status_code == 404
    assert list(server.store.list_prefix(f"uploads/{model_id}")) == []


@pytest.mark.parametrize("model_id", ["mdl_nothing", "x", "ds_" + "0" * 26, "%00"])
def test_an_unknown_model_is_404(http, model_id):
    assert http.get(f"/v1/models/{model_id}").status_code == 404
    assert http.delete(f"/v1/models/{model_id}").status_code == 404


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("vit_tiny_patch16_224.augreg_in21k", "vit_tiny_patch16_224.augreg_in21k"),
        ("vit_tiny_patch16_224_in21k", "vit_tiny_patch16_224.augreg_in21k"),
        ("resnet18", "resnet18"),
    ],
)
def test_tags_and_renamed_architectures_are_accepted(http, given, expected):
    response = post(http, architecture=given)

    assert response.status_code == 202, response.text
    assert response.json()["architecture"] == expected


def test_an_unknown_tag_is_refused_with_the_known_ones(http):
    response = post(http, architecture="vit_tiny_patch16_224.augreg")

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/architecture"
    assert "augreg_in21k" in response.json()["detail"]


@pytest.mark.parametrize(
    ("normalization", "pointer", "words"),
    [
        ({"mean": [123.675, 116.28, 103.53], "std": [0.2, 0.2, 0.2]}, "/mean", "[0.485, 0.456, 0.406]"),
        ({"mean": [0.5, 0.5, 0.5], "std": [58.395, 57.12, 57.375]}, "/std", "[0.229, 0.224, 0.225]"),
        ({"mean": [-0.1], "std": [0.5]}, "/mean", "not negative"),
        ({"mean": [0.5], "std": [0]}, "/std/0", "greater than 0"),
        ({"mean": [0.5], "std": [-1]}, "/std/0", "greater than 0"),
        ({"mean": [0.5], "std": [0.001]}, "/std", "gray levels"),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5]}, "", "mean has 3 values and std has 1"),
        ({"mean": [0.5, 0.5], "std": [0.5, 0.5]}, "/mean", "2 values are given for 3 channels"),
    ],
)
def test_a_normalization_of_other_pixel_values_is_refused_with_the_right_ones(http, normalization, pointer, words):
    response = post(http, normalization=json.dumps(normalization))

    assert response.status_code == 422
    assert [e["pointer"] for e in response.json()["errors"]] == [f"/normalization{pointer}"]
    assert words in response.json()["detail"]


def test_class_names_must_be_as_many_as_the_classes(http):
    response = post(http, classes='["cat", "dog", "fish"]')

    assert response.json()["errors"][0]["pointer"] == "/classes"


def test_the_document_shows_the_assumed_normalization_and_the_warnings(http, tenant):
    warning = {"code": "normalization_assumed", "field": "/normalization", "message": "assumed", "fix": "give it"}
    model = http.get(f"/v1/models/{tenant.ready_model(normalization_source='architecture', warnings=[warning])}").json()

    assert model["normalization"] == {"mean": [0.5], "std": [0.5]}
    assert model["normalization_source"] == "architecture"
    assert model["warnings"] == [warning]
