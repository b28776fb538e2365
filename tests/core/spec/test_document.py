"""A document takes the JSON types that its JSON Schema names, and turns none into another."""

import pytest

from core.errors import InvalidSpec
from core.spec import JobSpec, parse_job_spec

SPEC = {
    "dataset": "ds_x",
    "student": {"architecture": "vit"},
    "method": {"name": "kd"},
    "teachers": [{"architecture": "x"}],
}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"priority": True}, "/priority"),
        ({"priority": "1"}, "/priority"),
        ({"training": {"epochs": True}}, "/training/epochs"),
        ({"training": {"epochs": "3"}}, "/training/epochs"),
        ({"training": {"epochs": 3.5}}, "/training/epochs"),
        ({"training": {"learning_rate": "0.1"}}, "/training/learning_rate"),
        ({"training": {"learning_rate": False}}, "/training/learning_rate"),
        ({"training": {"ema": "0.9"}}, "/training/ema"),
        ({"method": {"name": "kd", "temperature": True}}, "/method/temperature"),
    ],
)
def test_neither_a_boolean_nor_a_text_is_a_number(changes, pointer):
    with pytest.raises(InvalidSpec) as refusal:
        parse_job_spec({**SPEC, **changes})

    assert [error.pointer for error in refusal.value.errors] == [pointer]


def test_a_whole_number_with_a_point_is_an_integer_and_an_integer_is_a_number():
    spec = parse_job_spec({**SPEC, "training": {"epochs": 3.0, "learning_rate": 1}})

    assert (spec.training.epochs, spec.training.learning_rate) == (3, 1.0)


def test_free_values_stay_what_they_are():
    arguments = {"a": 1, "b": True, "c": 1.5, "d": [1, "2"], "e": None}
    spec = parse_job_spec({**SPEC, "student": {"architecture": "vit", "arguments": arguments}})

    assert spec.student.arguments == arguments


def test_what_was_written_is_read_again():
    spec = parse_job_spec(SPEC)

    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
