"""Specs as text: JSON, and YAML with the scalars of version 1.2."""

import json
import math

import pytest

import core.spec.spec_text
import potstill.spec_text

PARSERS = [core.spec.spec_text.parse_document, potstill.spec_text.parse_document]


@pytest.fixture(params=PARSERS, ids=["core", "client"])
def parse(request):
    return request.param


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E3", 1000.0), ("5.e-6", 5e-6), (".5", 0.5), ("-1e+2", -100.0), ("1.0", 1.0),
        ("+.inf", math.inf),
        ("010", 10), ("0o17", 15), ("0x1f", 31), ("-7", -7), ("+7", 7),
        ("1:30", "1:30"), ("1_000", "1_000"), ("0b11", "0b11"), ("2024-01-01", "2024-01-01"),
        ("1e", "1e"), ("e3", "e3"),
        ("no", "no"), ("NO", "NO"), ("off", "off"), ("on", "on"), ("yes", "yes"), ("y", "y"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'1e-3'", "1e-3"), ('"no"', "no"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(parse, text, value):
    found = parse(f"value: {text}")["value"]

    assert found == value
    assert type(found) is type(value)


def test_keys_that_yaml_1_1_reads_as_booleans_stay_text(parse):
    assert parse("on: 1\nno: {off: x}") == {"on": 1, "no": {"off": "x"}}


def test_json_is_read_as_json(parse):
    text = '{\n\t"training": {"learning_rate": 1E-3, "epochs": 3},\n\t"name": "\\ud83d\\ude00 \\/"\n}'

    assert parse(text) == json.loads(text)


def test_a_spec_with_anchors_is_read(parse):
    text = "a: &a {architecture: resnet18, weights: train}\nteachers:\n- *a\n- {<<: *a, weights: random}"

    assert parse(text)["teachers"][1] == {"architecture": "resnet18", "weights": "random"}


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"a": 1,\n "b" 2}', "line 2 column 6"), ("a: [1\nb: 2", "line 2"), ("a: !!timestamp 2024-01-01", "timestamp")],
)
def test_an_unreadable_text_is_refused_with_its_position(parse, text, words):
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_both_parsers_have_the_same_rules():
    from inspect import getsource

    rules = [getsource(module).partition("import yaml")[2] for module in (core.spec.spec_text, potstill.spec_text)]

    assert rules[0] == rules[1]
