"""The inspector's answers."""

import pytest

from core.errors import InvalidSpec, restore_error
from worker import inspector

DATASET = {"num_classes": 10, "classes": None, "channels": 1, "image_size": 8, "num_train": 100, "num_test": 20}
VIT = {"patch_size": 2, "embed_dim": 32, "depth": 2, "num_heads": 2}


def question(**student):
    model = {"architecture": "vit_tiny_patch16_224", "arguments": VIT, **student}
    spec = {"dataset": "ds_1", "student": model, "method": {"name": "scratch"}, "training": {"image_size": 8}}
    return {"spec": spec, "dataset": DATASET, "datasets": {}, "models": {}, "threads": 3}


@pytest.fixture(autouse=True)
def forgetful():
    inspector._responses.clear()


def test_a_spec_comes_back_with_every_default_and_an_estimate():
    answer = inspector.handle_call("resolve", question())["ok"]

    assert answer["spec"]["resources"]["threads"] == 3
    assert answer["estimate"]["student"]["parameters"] > 0


def test_what_cannot_be_comes_back_as_the_error_that_it_is():
    error = restore_error(inspector.handle_call("resolve", question(architecture="vit_tyni"))["error"])

    assert isinstance(error, InvalidSpec)
    assert error.errors[0].pointer == "/student/architecture"


def test_the_same_question_is_answered_from_memory():
    first = inspector.handle_call("resolve", question())

    assert inspector.handle_call("resolve", question()) is first


def test_only_so_many_answers_are_remembered(monkeypatch):
    monkeypatch.setattr(inspector, "_CACHE_SIZE", 3)
    for number in range(5):
        inspector.handle_call("ping", {"number": number})

    assert len(inspector._responses) == 3


def test_a_question_that_takes_too_long_or_too_much_is_the_spec_s_fault(monkeypatch):
    def too_much(_payload):
        raise MemoryError

    monkeypatch.setitem(inspector._CALLS, "resolve", too_much)

    assert inspector.handle_call("resolve", question())["error"]["code"] == "invalid_spec"


def test_the_catalogue_is_searched():
    found = inspector.handle_call("architectures", {"search": "deit_tiny", "limit": 2})["ok"]["data"]

    assert found[0]["name"].startswith("deit_tiny")
