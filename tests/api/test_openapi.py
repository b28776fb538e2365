"""The OpenAPI document is complete. `test_fuzz.py` checks that the service conforms to it."""

import re

import pytest

WITHOUT_KEY = {"/healthz", "/readyz", "/metrics"}


@pytest.fixture(scope="module")
def document(server):
    return server.app.openapi()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_operation_declares_its_problems(document):
    for path, method, operation in operations(document):
        if path in WITHOUT_KEY:
            continue
        responses = operation["responses"]
        assert {"401", "403", "422", "503"} <= set(responses), (path, method)
        for status, response in responses.items():
            if status.startswith(("4", "5")):
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, (path, method, status)
        if "{" in path:
            assert "404" in responses, (path, method)


def test_every_operation_is_documented_and_needs_a_key(document):
    for path, method, operation in operations(document):
        assert operation["summary"], (path, method)
        assert operation["tags"], (path, method)
        assert operation["description"], (path, method)
        assert ("security" in operation) == (path not in WITHOUT_KEY), (path, method)


def test_every_reference_resolves(document):
    def references(value):
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for child in value.values():
                yield from references(child)
        elif isinstance(value, list):
            for child in value:
                yield from references(child)

    named = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    assert set(references(document)) <= named


def test_the_job_spec_schema_is_complete(document):
    schemas = document["components"]["schemas"]
    post = document["paths"]["/v1/jobs"]["post"]

    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/JobSpec"}
    assert "distillation_type" in schemas["DeitParams"]["properties"]
    assert {"Idempotency-Key"} <= {parameter["name"] for parameter in post["parameters"]}


def links(document):
    for path, method, operation in operations(document):
        for status, response in operation["responses"].items():
            for name, link in response.get("links", {}).items():
                yield f"{method} {path} {status}", name, link


def test_every_link_names_an_operation_and_its_parameters(document):
    needs = {
        operation["operationId"]: set(re.findall(r"\{(\w+)\}", path)) for path, _, operation in operations(document)
    }

    assert {name for _, name, _ in links(document)} <= set(needs)
    for source, name, link in links(document):
        assert set(link["parameters"]) == needs[name], (source, name)


def test_a_created_job_links_to_its_operations(document):
    found = {name for source, name, _ in links(document) if source == "post /v1/jobs 201"}

    assert found >= {"get_job", "cancel_job", "pause_job", "resume_job", "stop_job", "retry_job", "delete_job"}
    assert found >= {"list_events", "get_metrics", "list_checkpoints", "list_artifacts", "download_all"}


def test_lists_link_to_their_objects_and_a_job_to_its_student(document):
    found = {(source, name): link["parameters"] for source, name, link in links(document)}

    assert found["get /v1/datasets 200", "get_dataset"] == {"dataset_id": "$response.body#/data/0/id"}
    assert found["get /v1/methods 200", "get_method"] == {"name": "$response.body#/data/0/name"}
    assert found["get /v1/jobs/{job_id} 200", "get_model"] == {"model_id": "$response.body#/result/model"}
    assert found["get /v1/jobs/{job_id}/artifacts 200", "download_artifact"] == {
        "job_id": "$request.path.job_id",
        "name": "$response.body#/data/0/id",
    }


def test_the_search_parameter_declares_that_it_excludes_nul(document):
    (search,) = (
        parameter
        for parameter in document["paths"]["/v1/architectures"]["get"]["parameters"]
        if parameter["name"] == "search"
    )

    assert re.fullmatch(search["schema"]["pattern"], "vit tiny")
    assert not re.fullmatch(search["schema"]["pattern"], "vit\0")
