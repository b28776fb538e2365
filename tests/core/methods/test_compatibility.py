"""Which level learns from which: at equal depth, or as given, and only levels that are there."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidSpec
from core.methods.compatibility import check_batch, check_levels, embedding_width, evenly_spaced, grid_hint, pair_levels
from core.models.structure import FeatureLevel, ModelStructure


def network(depth, *, name="net"):
    return ModelStructure(
        architecture=name,
        family="transformer",
        levels=tuple(FeatureLevel(8, (4, 4)) for _ in range(depth)),
        last=None,
        embedding=None,
        attentions=(),
        num_prefix_tokens=0,
        has_class_token=False,
        num_batch_norms=0,
    )


def pointers(caught):
    return [error.pointer for error in caught.value.errors]


@pytest.mark.parametrize(
    ("depth", "count", "levels"),
    [(12, 4, (2, 5, 8, 11)), (12, 1, (11,)), (5, 4, (1, 2, 3, 4)), (4, 4, (0, 1, 2, 3)), (1, 1, (0,)), (12, 0, ())],
)
def test_levels_are_at_even_distances(depth, count, levels):
    assert evenly_spaced(depth, count) == levels


@settings(deadline=None, derandomize=True, max_examples=50)
@given(depth=st.integers(1, 60), share=st.floats(0, 1))
def test_even_levels_rise_to_the_last(depth, share):
    levels = evenly_spaced(depth, max(1, round(share * depth)))

    assert list(levels) == sorted(set(levels))
    assert levels[0] >= 0
    assert levels[-1] == depth - 1


@pytest.mark.parametrize(
    ("student", "teacher", "count", "pairs"),
    [
        (4, 12, 4, ((0, 2), (1, 5), (2, 8), (3, 11))),
        (12, 5, 2, ((5, 2), (11, 4))),
        (2, 24, 4, ((0, 11), (1, 23))),
        (12, 24, 1, ((11, 23),)),
    ],
)
def test_pairs_are_at_equal_relative_depth_and_no_more_than_there_are_levels(student, teacher, count, pairs):
    assert pair_levels(network(student), network(teacher), None, count=count, method="fitnets") == pairs


def test_given_pairs_are_taken_as_they_are():
    given_pairs = [(3, 0), (0, 5), (3, 5)]

    assert pair_levels(network(4), network(6), given_pairs, count=1, method="fitnets") == tuple(given_pairs)


@pytest.mark.parametrize(
    ("pair", "words"),
    [((4, 0), "the student small has levels 0 to 3, there is no 4"), ((0, 6), "the teacher big has levels 0 to 5")],
)
def test_a_level_that_is_not_there_is_refused(pair, words):
    with pytest.raises(InvalidSpec, match=words) as caught:
        pair_levels(network(4, name="small"), network(6, name="big"), [(0, 0), pair], count=1, method="fitnets")

    assert pointers(caught) == ["/method/layers"]


@pytest.mark.parametrize(
    ("depths", "pointer"), [((0, 4), "/student/architecture"), ((4, 0), "/teachers/0/architecture")]
)
def test_a_network_that_shows_no_levels_is_refused(depths, pointer):
    student, teacher = map(network, depths)

    with pytest.raises(InvalidSpec, match="rkd compares inner features") as caught:
        pair_levels(student, teacher, None, count=1, method="rkd")

    assert pointers(caught) == [pointer]


def test_levels_that_are_there_are_returned():
    anatomy = replace(network(2), family="cnn")

    assert check_levels(anatomy, "student", "ofa") == anatomy.levels


def test_a_patch_size_is_named_where_one_gives_the_grid(setting):
    assert grid_hint(setting, (8, 8)) == "set the student's patch_size to 2, for the teacher's 8 × 8 patches"


def test_other_grids_need_another_image_size(setting):
    assert grid_hint(setting, (7, 7)).startswith("choose image_size and patch_size so that the student has 7 × 7")


NETWORK = ModelStructure(
    architecture="net",
    family="cnn",
    levels=(),
    last=None,
    embedding=12,
    attentions=(),
    num_prefix_tokens=0,
    has_class_token=False,
    num_batch_norms=0,
)


def test_the_width_of_what_the_classifier_reads():
    assert embedding_width(NETWORK, "student", "rkd") == 12


def test_a_network_that_does_not_show_it_is_refused_at_its_place():
    with pytest.raises(InvalidSpec, match="rkd compares what the classifiers read") as caught:
        embedding_width(replace(NETWORK, embedding=None), "teachers/0", "rkd")

    assert [error.pointer for error in caught.value.errors] == ["/teachers/0/architecture"]


@pytest.mark.parametrize(("num_samples", "batch_size"), [(24, 1), (3, 2), (1, 8)])
def test_batches_of_one_sample_are_refused(setting, num_samples, batch_size):
    with pytest.raises(InvalidSpec, match="some have only 1; it needs 2") as caught:
        check_batch(replace(setting, num_samples=num_samples, batch_size=batch_size), "rkd")

    assert [error.pointer for error in caught.value.errors] == ["/training/batch_size"]


@pytest.mark.parametrize(("num_samples", "batch_size"), [(24, 2), (5, 3), (2, 8)])
def test_batches_of_two_are_enough(setting, num_samples, batch_size):
    check_batch(replace(setting, num_samples=num_samples, batch_size=batch_size), "rkd")
