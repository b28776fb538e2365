"""The lists of methods and architectures."""

import jsonschema_rs
import pytest

from core.spec import METHODS
from core.spec.parse import parse_job_spec


def test_all_registered_methods_are_listed(http):
    assert [method["name"] for method in http.get("/v1/methods").json()["data"]] == list(METHODS)


def test_the_schema_of_a_method_agrees_with_the_spec(http):
    method = http.get("/v1/methods/deit").json()
    schema = method["parameters"]

    jsonschema_rs.validate(schema, {"name": "deit", "distillation_type": "soft"})
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, {"name": "deit", "alpha": 2})
    assert schema["properties"]["distillation_type"]["default"] == "soft"
    assert method["needs"]["student_families"] == ["transformer"]
    assert method["paper"]


def test_each_method_is_described_completely(http):
    for method in http.get("/v1/methods").json()["data"]:
        about = METHODS[method["name"]].params.info
        properties = method["parameters"]["properties"]

        assert all(method[key] for key in ("summary", "when", "year")), method["name"]
        assert method["paper"] or method["name"] == "scratch"
        assert method["needs"]["teacher_families"] == list(about.needs.teacher_families)
        assert method["caches"] == list(about.caches)
        assert method["cost"] is None or method["cost"] > 0
        assert all(entry.get("description") for entry in properties.values()), method["name"]
        jsonschema_rs.validate(method["parameters"], method["example"]["method"])
        assert parse_job_spec(method["example"]).method.name == method["name"]


def test_the_defaults_in_each_schema_are_those_of_the_spec(http):
    for method in http.get("/v1/methods").json()["data"]:
        filled = parse_job_spec(method["example"]).method.model_dump(mode="json")
        spec = method["example"]["method"]
        defaults = {
            name: entry["default"] for name, entry in method["parameters"]["properties"].items() if "default" in entry
        }

        assert {**defaults, **spec} == filled, method["name"]


def test_methods_are_recommended_with_reasons_gains_and_advice(http):
    situation = {"teacher": "transformer", "student": "transformer", "num_images": 2_000}
    found = http.get("/v1/methods/recommend", params=situation).json()

    first = found["data"][0]
    assert parse_job_spec({**http.get("/v1/methods/vitkd").json()["example"], "method": first["method"]})
    assert first["reason"]
    assert first["expected_gain"]["kind"] in {"measured", "published"}
    assert first["expected_gain"]["source"]
    assert "1,000 steps" in " ".join(found["advice"])


@pytest.mark.parametrize(
    ("changes", "pointer"), [({"teacher": "rnn"}, "/teacher"), ({"num_images": 0}, "/num_images"), ({}, "/student")]
)
def test_a_recommendation_for_an_unknown_situation_is_refused(http, changes, pointer):
    situation = (
        {"teacher": "cnn", "student": "cnn", "num_images": 10} if changes else {"teacher": "cnn", "num_images": 1}
    )
    response = http.get("/v1/methods/recommend", params={**situation, **changes})

    assert response.status_code == 422
    assert pointer in response.json()["errors"][0]["pointer"]


@pytest.mark.parametrize("name", ["dei", "%00", "x" * 3000])
def test_an_unknown_method_is_404_and_lists_the_methods(http, name):
    response = http.get(f"/v1/methods/{name}")

    assert response.status_code == 404
    assert "deit" in response.json()["detail"]


def test_architectures_are_searched_by_name(http):
    found = http.get("/v1/architectures", params={"search": "deit_tiny", "limit": 2}).json()

    assert found["object"] == "list"
    assert all("deit_tiny" in each["name"] for each in found["data"])
    assert found["data"][0]["family"] == "transformer"
    assert found["data"][0]["parameters"] > 1_000_000
    assert found["data"][0]["input_size"] == [3, 224, 224]


def test_architectures_are_paginated(http):
    found = http.get("/v1/architectures", params={"search": "resnet", "limit": 3}).json()

    assert (len(found["data"]), found["has_more"]) == (3, True)


@pytest.mark.parametrize("params", [{"search": "x" * 201}, {"search": "a\0b"}, {"limit": 0}, {"limit": 1000}])
def test_an_invalid_search_is_422(http, params):
    assert http.get("/v1/architectures", params=params).status_code == 422


def test_the_example_of_the_docs_page_is_a_valid_spec():
    from api.jobs.schemas import EXAMPLE_SPEC

    assert parse_job_spec(EXAMPLE_SPEC).method.name == "deit"
