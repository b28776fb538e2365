"""A model accepts only the JSON types of its JSON Schema, without conversions."""

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
def test_booleans_and_strings_are_not_numbers(changes, pointer):
    with pytest.raises(InvalidSpec) as caught:
        parse_job_spec({**SPEC, **changes})

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_3_0_is_an_integer_and_an_integer_is_a_number():
    spec = parse_job_spec({**SPEC, "training": {"epochs": 3.0, "learning_rate": 1}})

    assert (spec.training.epochs, spec.training.learning_rate) == (3, 1.0)


def test_json_values_keep_their_types():
    arguments = {"a": 1, "b": True, "c": 1.5, "d": [1, "2"], "e": None}
    spec = parse_job_spec({**SPEC, "student": {"architecture": "vit", "arguments": arguments}})

    assert spec.student.arguments == arguments


def test_a_dumped_spec_is_equal_when_parsed():
    spec = parse_job_spec(SPEC)

    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
