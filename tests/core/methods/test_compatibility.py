"""Pairs of levels, widths, grids and batches that methods need."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InvalidSpec
from core.methods.compatibility import (
    check_batch,
    check_levels,
    embedding_width,
    evenly_spaced,
    grid_hint,
    middle_level,
    pair_levels,
)
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
def test_levels_are_evenly_spaced(depth, count, levels):
    assert evenly_spaced(depth, count) == levels


@pytest.mark.parametrize(("depth", "level"), [(1, 0), (2, 0), (4, 1), (5, 2), (12, 5)])
def test_the_middle_level_is_at_half_of_the_depth(depth, level):
    assert middle_level(depth) == level


@settings(deadline=None, derandomize=True, max_examples=50)
@given(depth=st.integers(1, 60), share=st.floats(0, 1))
def test_evenly_spaced_levels_increase_and_end_at_the_last(depth, share):
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
def test_default_pairs_are_at_equal_relative_depth_and_at_most_one_per_level(student, teacher, count, pairs):
    assert pair_levels(network(student), network(teacher), None, count=count, method="fitnets") == pairs


def test_given_pairs_are_returned_unchanged():
    given_pairs = [(3, 0), (0, 5), (3, 5)]

    assert pair_levels(network(4), network(6), given_pairs, count=1, method="fitnets") == tuple(given_pairs)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((4, 0), "the student small has levels 0 to 3; level 4 does not exist"),
        ((0, 6), "the teacher big has levels 0 to 5"),
    ],
)
def test_a_missing_level_is_rejected(pair, message):
    with pytest.raises(InvalidSpec, match=message) as caught:
        pair_levels(network(4, name="small"), network(6, name="big"), [(0, 0), pair], count=1, method="fitnets")

    assert pointers(caught) == ["/method/layers"]


@pytest.mark.parametrize(
    ("depths", "pointer"), [((0, 4), "/student/architecture"), ((4, 0), "/teachers/0/architecture")]
)
def test_a_network_without_levels_is_rejected(depths, pointer):
    student, teacher = map(network, depths)

    with pytest.raises(InvalidSpec, match="rkd compares inner features") as caught:
        pair_levels(student, teacher, None, count=1, method="rkd")

    assert pointers(caught) == [pointer]


def test_existing_levels_are_returned():
    structure = replace(network(2), family="cnn")

    assert check_levels(structure, "student", "ofa") == structure.levels


def test_the_hint_names_a_patch_size_that_gives_the_grid(context):
    assert grid_hint(context, (8, 8)) == "set the student's patch_size to 2, for the teacher's 8 × 8 patches"


def test_the_hint_for_other_grids_names_image_size_and_patch_size(context):
    assert grid_hint(context, (7, 7)).startswith(
        "choose image_size and patch_size so that the student has the teacher's 7 × 7"
    )


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


def test_embedding_width_is_that_of_the_classifiers_input():
    assert embedding_width(NETWORK, "student", "rkd") == 12


def test_a_network_without_a_readable_embedding_is_rejected_at_its_field():
    with pytest.raises(InvalidSpec, match="rkd compares embeddings") as caught:
        embedding_width(replace(NETWORK, embedding=None), "teachers/0", "rkd")

    assert [error.pointer for error in caught.value.errors] == ["/teachers/0/architecture"]


@pytest.mark.parametrize(("num_samples", "batch_size"), [(24, 1), (3, 2), (1, 8)])
def test_batches_of_one_sample_are_rejected(context, num_samples, batch_size):
    with pytest.raises(InvalidSpec, match="some have only 1; it needs 2") as caught:
        check_batch(replace(context, num_samples=num_samples, batch_size=batch_size), "rkd")

    assert [error.pointer for error in caught.value.errors] == ["/training/batch_size"]


@pytest.mark.parametrize(("num_samples", "batch_size"), [(24, 2), (5, 3), (2, 8)])
def test_batches_of_two_are_enough(context, num_samples, batch_size):
    check_batch(replace(context, num_samples=num_samples, batch_size=batch_size), "rkd")
