"""The OpenAPI document is complete, and true of the service: schemathesis asks for what it says, and for the rest."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
WITHOUT_KEY = {"/healthz", "/readyz", "/metrics"}


BOUNDED = hypothesis.settings(
    max_examples=6,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


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
        answers = operation["responses"]
        assert {"401", "403", "422", "503"} <= set(answers), (path, method)
        for status, answer in answers.items():
            if status.startswith(("4", "5")):
                schema = answer["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, (path, method, status)
        if "{" in path:
            assert "404" in answers, (path, method)


def test_every_operation_is_explained_and_needs_the_key(document):
    for path, method, operation in operations(document):
        assert operation["summary"], (path, method)
        assert operation["tags"], (path, method)
        assert operation["description"], (path, method)
        assert ("security" in operation) == (path not in WITHOUT_KEY), (path, method)


def test_every_reference_leads_somewhere(document):
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


def test_the_job_spec_is_described_in_full(document):
    schemas = document["components"]["schemas"]
    post = document["paths"]["/v1/jobs"]["post"]

    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/JobSpec"}
    assert "distillation_type" in schemas["DeitParams"]["properties"]
    assert {"Idempotency-Key"} <= {parameter["name"] for parameter in post["parameters"]}


@pytest.fixture(scope="module")
def api_schema(server, document):
    loaded = schemathesis.openapi.from_dict(document)
    loaded.config.update(base_url=server.url)
    return loaded


@pytest.fixture(scope="module")
def own(server):
    """A project with one of everything, for requests that hit something."""
    tenant = server.tenant()
    tenant.extra = {"job_id": tenant.queued_job(), "dataset_id": tenant.ready_dataset(), "name": "kd"}
    yield tenant
    tenant.http.close()


def test_the_service_does_what_the_document_says(api_schema, own):
    headers = {"Authorization": f"Bearer {own.token}"}

    def check(case):
        for name, small in (("wait", 0), ("limit", 3)):  # in time, and without a hundred models to be built
            if isinstance(case.query.get(name), int | float) and 0 < case.query[name] <= 100:
                case.query[name] = small
        case.call_and_validate(headers=headers, checks=CHECKS)
        if case.path_parameters and case.method == "GET":
            case.path_parameters |= {name: own.extra[name] for name in case.path_parameters if name in own.extra}
            case.call_and_validate(headers=headers, checks=CHECKS)

    assert own.http.get("/v1/architectures?limit=1").status_code == 200  # the inspector's imports take a while
    failures, tried = [], 0
    for operation in (found.ok() for found in api_schema.get_all_operations()):
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            tried += 1
            try:
                BOUNDED(hypothesis.given(case=operation.as_strategy(generation_mode=mode))(check))()
            except hypothesis.errors.Unsatisfiable:
                pass  # nothing of this operation can be wrong: it takes no input
            except Exception as error:  # noqa: BLE001 - all operations are tried before any is reported
                failures.append(f"{operation.label} ({mode}): {error}")

    assert not failures, "\n\n".join(failures)
    assert tried > 30
