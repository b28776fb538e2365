"""The inspector's calls."""

import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from core.errors import InvalidSpec, restore_error
from worker import inspector

DATASET = {"num_classes": 10, "classes": None, "channels": 1, "image_size": 8, "num_train": 100, "num_test": 20}
VIT = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}


def resolve_payload(**student):
    model = {"architecture": "vit_tiny_patch16_224", "arguments": VIT, **student}
    spec = {"dataset": "ds_1", "student": model, "method": {"name": "scratch"}, "training": {"image_size": 8}}
    return {"spec": spec, "dataset": DATASET, "datasets": {}, "models": {}, "threads": 3}


@pytest.fixture(autouse=True)
def empty_cache():
    inspector._responses.clear()


def test_resolve_returns_a_complete_spec_and_an_estimate():
    response = inspector.handle_call("resolve", resolve_payload())["ok"]

    assert response["spec"]["resources"]["threads"] == 3
    assert response["estimate"]["student"]["parameters"] > 0


def test_an_invalid_spec_returns_its_error():
    error = restore_error(inspector.handle_call("resolve", resolve_payload(architecture="vit_tyni"))["error"])

    assert isinstance(error, InvalidSpec)
    assert error.errors[0].pointer == "/student/architecture"


def test_a_repeated_call_is_served_from_the_cache():
    first = inspector.handle_call("resolve", resolve_payload())

    assert inspector.handle_call("resolve", resolve_payload()) is first


def test_the_cache_has_a_limited_size(monkeypatch):
    monkeypatch.setattr(inspector, "_CACHE_SIZE", 3)
    for number in range(5):
        inspector.handle_call("ping", {"number": number})

    assert len(inspector._responses) == 3


def answer_with(monkeypatch, error):
    def fail(_payload):
        raise error

    monkeypatch.setitem(inspector._CALLS, "resolve", fail)


@pytest.mark.parametrize(("free_bytes", "code"), [(inspector.MEMORY_BYTES, "invalid_spec"), (1, "inspector_busy")])
def test_a_spec_is_at_fault_for_memory_only_where_the_machine_has_some(monkeypatch, free_bytes, code):
    answer_with(monkeypatch, MemoryError())
    monkeypatch.setattr(inspector, "free_memory", lambda: free_bytes)

    assert inspector.handle_call("resolve", resolve_payload())["error"]["code"] == code


def test_a_busy_machine_is_no_fault_of_the_spec(monkeypatch):
    answer_with(monkeypatch, SoftTimeLimitExceeded())
    error = inspector.handle_call("resolve", resolve_payload())["error"]
    monkeypatch.undo()

    assert (error["code"], error["status"]) == ("inspector_busy", 503)
    assert "ok" in inspector.handle_call("resolve", resolve_payload())


def test_a_spec_that_computes_too_long_is_at_fault(monkeypatch):
    def compute(_payload):
        while True:
            pass

    monkeypatch.setitem(inspector._CALLS, "resolve", compute)
    error = inspector.handle_call("resolve", resolve_payload(), processor_seconds=0.1)["error"]

    assert error["code"] == "invalid_spec"
    assert "takes too long to build" in error["detail"]


def test_architectures_searches_the_catalog():
    entries = inspector.handle_call("architectures", {"search": "deit_tiny", "limit": 2})["ok"]["data"]

    assert entries[0]["name"].startswith("deit_tiny")


def test_many_specs_are_resolved_in_one_call_until_its_time_is_used_up():
    requests = [resolve_payload(), resolve_payload(architecture="vit_tyni"), resolve_payload(weights="random")]
    several = inspector.handle_call("resolve_many", {"requests": requests})["ok"]["responses"]
    first = inspector.handle_call("resolve_many", {"requests": requests}, start_seconds=0.0)["ok"]["responses"]

    assert several == [inspector.handle_call("resolve", request) for request in requests]
    assert ["ok" in response for response in several] == [True, False, True]
    assert first == several[:1]


def test_a_busy_machine_ends_no_call_of_many_specs(monkeypatch):
    answer_with(monkeypatch, SoftTimeLimitExceeded())
    responses = inspector.handle_call("resolve_many", {"requests": [resolve_payload()]})["ok"]["responses"]

    assert [response["error"]["code"] for response in responses] == ["inspector_busy"]
