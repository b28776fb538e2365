"""Sweeps: the expansion of a base spec, a grid and points to job specs."""

import pytest

from core.errors import InvalidRequest
from core.spec.sweep import expand

SPEC = {
    "name": "tune",
    "method": {"name": "kd"},
    "training": {"epochs": 3},
    "teachers": [{"weights": "train"}, {"weights": "random"}],
}


def jobs_of(grid=None, points=(), **options):
    return expand(SPEC, grid or {}, points, **{"max_jobs": 100, **options})


def pointers(grid=None, points=(), **options):
    with pytest.raises(InvalidRequest) as caught:
        jobs_of(grid, points, **options)
    return [error.pointer for error in caught.value.errors]


def test_there_is_a_job_for_each_combination_and_the_last_field_varies_first():
    found = jobs_of({"training.epochs": [20, 40], "method.name": ["kd", "deit"]})

    assert [(each.document["training"]["epochs"], each.document["method"]["name"]) for each in found] == [
        *((20, "kd"), (20, "deit"), (40, "kd"), (40, "deit"))
    ]
    assert [each.number for each in found] == [1, 2, 3, 4]
    assert found[0].values == {"training.epochs": 20, "method.name": "kd"}
    assert found[0].document["name"] == "tune epochs=20 method=kd"
    assert SPEC["training"] == {"epochs": 3}


def test_each_point_is_combined_with_the_grid():
    points = [{"method": {"name": "kd", "temperature": 2}}, {"method": {"name": "deit"}, "training": {"epochs": None}}]
    found = jobs_of({"training.seed": [0, 1]}, points)

    assert [each.document["method"] for each in found] == [points[0]["method"]] * 2 + [points[1]["method"]] * 2
    assert found[2].document["training"] == {"seed": 0}
    assert found[2].values == {
        "training.seed": 0,
        "method.name": "deit",
        "method.temperature": None,
        "training.epochs": None,
    }
    assert found[2].label == "seed=0 method=deit"


def test_a_field_of_a_list_is_set_by_its_index():
    found = jobs_of({"teachers.1.training.epochs": [1, 2], "training.epochs": [1]})

    assert found[1].document["teachers"] == [{"weights": "train"}, {"weights": "random", "training": {"epochs": 2}}]
    assert found[1].label == "epochs=2"  # the other field does not vary


def test_names_of_equal_last_parts_have_more_parts():
    found = jobs_of({"teachers.1.training.epochs": [1, 2], "training.epochs": [3, 4]})

    assert found[0].label == "1.training.epochs=1 training.epochs=3"


def test_objects_and_lists_are_short_in_names():
    found = jobs_of({"compression": [[], [{"name": "quantize", "dtype": "int8"}]], "method": [{"name": "kd"}]})

    assert [each.label for each in found] == ["compression=none", "compression=quantize"]


def test_long_values_do_not_exceed_the_length_of_a_name():
    found = jobs_of({"student.architecture": ["a" * 150, "b"], "method.note": ["c" * 150, "d"]}, name="n" * 200)

    assert max(len(each.document["name"]) for each in found) <= 200
    assert len({each.document["name"] for each in found}) == 4


def test_a_pointer_of_the_spec_becomes_one_of_the_request():
    (job, *_) = jobs_of({"training.epochs": [0, 1]}, [{"method": {"name": "kd"}}])

    assert job.request_pointer("/training/epochs") == "/grid/training.epochs/0"
    assert job.request_pointer("/method/name") == "/points/0/method/name"
    assert job.request_pointer("/training/batch_size") == "/spec/training/batch_size"
    assert job.request_pointer("") == "/spec"


@pytest.mark.parametrize(
    ("grid", "pointer"),
    [
        ({}, "/grid"),
        ({"training.epochs": []}, "/grid/training.epochs"),
        ({"training.epochs": [1, 2, 1]}, "/grid/training.epochs/2"),
        ({"/training/epochs": [1]}, "/grid/~1training~1epochs"),
        ({"training..epochs": [1]}, "/grid/training..epochs"),
        ({"name": ["a", "b"]}, "/grid/name"),
        ({"training": [{}], "training.epochs": [1]}, "/grid/training.epochs"),
        ({"teachers.2.weights": ["train"]}, "/grid/teachers.2.weights"),
        ({"teachers.first.weights": ["train"]}, "/grid/teachers.first.weights"),
        ({"method.name.first": [1]}, "/grid/method.name.first"),
        ({"training.epochs": list(range(11)), "training.seed": list(range(10))}, "/grid"),
    ],
)
def test_a_wrong_grid_is_refused_with_its_field(grid, pointer):
    assert pointers(grid) == [pointer]


def test_wrong_points_are_refused():
    assert pointers(points=[{"name": "x"}, {"a": 1}, {"a": 1}]) == ["/points/0/name", "/points/2"]
    assert pointers(points=[{"a": index} for index in range(101)]) == ["/points"]


def test_the_fix_for_a_json_pointer_is_named():
    with pytest.raises(InvalidRequest, match=r"with dots: training\.epochs"):
        jobs_of({"/training/epochs": [1]})
