"""SpectralKD: official values, pairs of layers, and networks of different widths and grids."""

import pytest
import torch

from core.errors import InvalidSpec
from core.losses import spectral
from core.methods import Batch, Outputs, StepInfo
from core.methods.spectral import end_pairs
from core.models.taps import Feature, FeatureRequest

NARROW = ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2})


@pytest.mark.parametrize(
    ("student_shape", "teacher_shape", "value", "gradient"),
    [
        ((4, 8, 4, 4), (4, 8, 4, 4), 2.8497816822756104, 0.11177908844018213),
        ((4, 6, 4, 4), (4, 12, 4, 4), 1.5534599677258, 0.09493414850538776),
        ((4, 4, 3, 6), (4, 7, 3, 6), 1.4697941428730177, 0.1079495598455679),
    ],
)
def test_the_loss_of_a_pair_matches_the_official_code(student_shape, teacher_shape, value, gradient):
    """Drawn from seed 0: randn for the student, then 2 · randn for the teacher."""
    torch.manual_seed(0)
    student, teacher = torch.randn(student_shape).requires_grad_(), 2 * torch.randn(teacher_shape)

    loss = spectral(student, teacher)
    loss.backward()

    assert loss.item() == pytest.approx(value, rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(gradient, rel=1e-5)


@pytest.mark.parametrize("teacher_shape", [(2, 3, 4, 4), (2, 4, 4, 2)])
def test_a_wider_student_and_another_grid_are_rejected_by_the_loss(teacher_shape):
    with pytest.raises(ValueError, match="same grid, and the student at most"):
        spectral(torch.zeros(2, 4, 4, 4), torch.zeros(teacher_shape))


def feature(map_BDHW):
    return Feature(map_BDHW.flatten(2).transpose(1, 2), (3, 3))


@pytest.fixture
def golden():
    """Draws of the official total from seed 0: logits of both, labels, and the maps of two pairs."""
    torch.manual_seed(0)
    student_logits, teacher_logits = 2 * torch.randn(4, 7), 2 * torch.randn(4, 7)
    labels = torch.randint(7, (4,))
    s0, t0, s1, t1 = (torch.randn(4, width, 3, 3) for width in (4, 6, 4, 6))
    batch = Batch(torch.zeros(4, 1, 16, 16), labels, torch.arange(4))
    return student_logits.requires_grad_(), s0.requires_grad_(), s1, teacher_logits, t0, t1, batch


def test_the_terms_match_the_official_code(make_harness, golden):
    student_logits, s0, s1, teacher_logits, t0, t1, batch = golden
    method = make_harness("spectral", layers=[(0, 0), (1, 1)]).method
    method.label_smoothing = 0.1
    student = Outputs(student_logits, levels={0: feature(s0), 1: feature(s1)})
    teacher = Outputs(teacher_logits, levels={0: feature(t0), 1: feature(t1)})

    terms = method.loss(batch, student, [teacher], StepInfo())
    sum(terms.values()).backward()

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"label": 0.25050713787536166, "distillation": 0.9584534929152358, "spectral": 0.16479477307437496}, rel=1e-5
    )
    assert student_logits.grad.norm().item() == pytest.approx(0.2910343363671837, rel=1e-5)
    assert s0.grad.norm().item() == pytest.approx(0.01104439698266128, rel=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "first", "last"),
    [(12, 24, 2, 6), (4, 4, 1, 3), (4, 12, 1, 3), (8, 8, 2, 6), (1, 6, 0, 1)],
)
def test_the_first_and_the_last_levels_are_paired(student, teacher, first, last):
    pairs = end_pairs(student, teacher)

    assert pairs[:first] == tuple((index, index) for index in range(first))
    assert pairs[first:] == tuple((student - offset, teacher - offset) for offset in range(last, 0, -1))


def test_the_pairs_can_be_set(make_harness):
    method = make_harness("spectral", layers=[(1, 2), (3, 5)]).method

    assert (method.student_taps, method.teacher_taps) == (FeatureRequest(levels=(1, 3)), FeatureRequest(levels=(2, 5)))


@pytest.mark.parametrize("teacher", [NARROW, "cnn"])
def test_a_narrower_teacher_on_another_grid_is_supported(make_harness, batch, teacher):
    harness = make_harness("spectral", teachers=(teacher,))

    assert harness.terms(batch)["spectral"] > 0


def test_the_labels_and_decisions_of_the_teacher_can_be_the_targets(make_harness, batch):
    terms = make_harness("spectral", distillation_type="hard", alpha=0.25).terms(batch)
    labels = make_harness("spectral", alpha=0.0).terms(batch)["label"]

    assert terms["label"].item() == pytest.approx(0.75 * labels.item(), rel=1e-6)
    assert terms["distillation"] > 0


def test_a_level_that_does_not_exist_is_rejected(make_harness):
    with pytest.raises(InvalidSpec, match=r"/method/layers: the student .* level 9 does not exist"):
        make_harness("spectral", layers=[(9, 0)])
