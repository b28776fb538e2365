"""What relations need of the networks and of the batch."""

from dataclasses import replace

import pytest

from core.errors import InvalidSpec
from core.methods.relations import check_batch, embedding_width
from core.models.anatomy import Anatomy

NETWORK = Anatomy(
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
