"""The example job of each method is valid."""

import pytest

from core.spec import METHODS, parse_job_spec
from core.spec.examples import example_job, example_student, example_teacher, example_teacher_families
from core.spec.methods import Requirements


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_each_method_is_valid(name):
    spec = parse_job_spec(example_job(name))

    assert spec.method.name == name
    assert set(spec.datasets().values()) <= {"ds_pictures", "ds_pool"}


def test_ids_can_be_chosen():
    spec = parse_job_spec(example_job("attention_probe", dataset="ds_a", pool="ds_b"))

    assert spec.datasets() == {"/dataset": "ds_a", "/method/pool": "ds_b"}


def test_families_can_be_chosen():
    document = example_job("kd", student_family="cnn", teacher_families=("cnn", "transformer"))

    assert document["student"] == example_student("cnn")
    assert document["teachers"] == [example_teacher("cnn"), example_teacher("transformer")]


@pytest.mark.parametrize(
    ("needs", "families"),
    [
        (Requirements(), ("transformer",)),
        (Requirements(max_teachers=0), ()),
        (Requirements(min_teachers=0, teacher=()), ()),
        (Requirements(teacher_families=("cnn",)), ("cnn",)),
        (Requirements(min_teachers=2, max_teachers=None), ("transformer", "cnn")),
    ],
)
def test_an_example_has_the_fewest_teachers_and_alternates_their_families(needs, families):
    assert example_teacher_families(needs) == families


def test_the_patch_grid_does_not_depend_on_the_image_size():
    sizes = [example_student("transformer", size)["arguments"]["patch_size"] for size in (4, 16, 32)]

    assert sizes == [1, 2, 4]
