"""Merge patches, by the examples of RFC 7396, appendix A."""

import pytest

from core.spec.patch import differences, merge_patch


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_rfc_7396(target, patch, result):
    assert merge_patch(target, patch) == result


def test_the_target_is_not_modified():
    target = {"a": {"b": 1}}
    merge_patch(target, {"a": {"b": 2}})

    assert target == {"a": {"b": 1}}


def test_differences_have_the_deepest_common_path():
    old = {"same": 1, "deep": {"x": 1, "y": 2}, "list": [{"k": 1}, {"k": 2}], "removed": 1, "other": [1]}
    new = {"same": 1, "deep": {"x": 1, "y": 3}, "list": [{"k": 1}, {"k": 9}], "new": 1, "other": [1, 2]}

    assert set(differences(old, new)) == {("deep", "y"), ("list", 1, "k"), ("removed",), ("new",), ("other",)}
