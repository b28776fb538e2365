"""Target-aware transformer: official values, different grids, and errors."""

import pytest
import torch
from torch import nn

from core.errors import InvalidSpec
from core.losses import target_aware
from core.methods import Outputs
from core.methods.target_aware import Embed
from core.models.taps import Feature, FeatureRequest

STUDENT = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 6, "depth": 1, "num_heads": 2})
TEACHER = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2})
COARSER = ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2})
ONE_PIXEL = ("vit_tiny_patch16_224", {"patch_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 2})


def of_map(image):
    return Outputs(torch.zeros(2, 4), last=Feature(image.flatten(2).transpose(1, 2), tuple(image.shape[2:])))


@torch.no_grad()
def fill(embed):
    """Set the golden values' weights: 0.3 sin(0.7 j + i), by the authors' names in alphabetical order."""
    conv, norm = embed
    for i, parameter in enumerate((conv.weight, norm.bias, norm.weight)):
        parameter.copy_(
            (0.3 * (0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + i).sin()).view_as(parameter)
        )
    norm.weight.add_(1)


def test_embeddings_and_attention_match_the_official_code(make_harness, batch):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, 4), torch.randn(2, 8, 4, 4)
    method = make_harness("target_aware", student=STUDENT, teachers=(TEACHER,)).method
    query, value = method.queries[0], method.values[0]
    fill(query)
    fill(value)
    value[0].weight.data.mul_(-0.5)
    student.requires_grad_()

    (term,) = method.feature_terms(batch, of_map(student), [of_map(teacher)]).values()
    gradients = torch.autograd.grad(term, (student, query[0].weight, value[0].weight))

    assert term.item() == pytest.approx(1.53647697, rel=1e-5)
    assert [gradient.norm().item() for gradient in gradients] == pytest.approx(
        [0.40038075, 1.097529041, 1.904016572], rel=1e-5
    )


def test_the_last_features_of_both_networks_are_read(make_harness):
    method = make_harness("target_aware").method

    assert (method.student_taps, method.teacher_taps) == (FeatureRequest(last=True), FeatureRequest(last=True))


def test_a_cnn_that_ends_in_one_pixel_is_read_at_its_last_spatial_level(make_harness, batch):
    harness = make_harness("target_aware", teachers=("cnn",))
    (level,) = harness.method.teacher_taps.levels

    assert harness.teachers[0](batch.images).levels[level].grid == (2, 2)  # 16 pixels at a stride of 8
    assert harness.terms(batch)["target_aware"].isfinite()


def test_the_coarser_map_is_resampled_to_the_finer_grid(make_harness, batch):
    method = make_harness("target_aware", student=STUDENT, teachers=(COARSER,)).method
    student, teacher = torch.randn(2, 6, 4, 4), torch.randn(2, 8, 2, 2)

    (term,) = method.feature_terms(batch, of_map(student), [of_map(teacher)]).values()

    finer = nn.functional.interpolate(teacher, size=(4, 4), mode="bilinear", align_corners=False)
    expected = target_aware(method.queries[0](student), finer, method.values[0](student), finer)
    assert term.item() == pytest.approx(expected.item(), rel=1e-6)


def test_large_maps_are_averaged_before_attention(make_harness, batch):
    method = make_harness("target_aware", student=STUDENT, teachers=(TEACHER,)).method
    student, teacher = torch.randn(2, 6, 64, 40), torch.randn(2, 8, 16, 10)

    (term,) = method.feature_terms(batch, of_map(student), [of_map(teacher)]).values()

    smaller = nn.functional.avg_pool2d(student, 2)
    finer = nn.functional.interpolate(teacher, size=(32, 20), mode="bilinear", align_corners=False)
    expected = target_aware(method.queries[0](smaller), finer, method.values[0](smaller), finer)
    assert term.item() == pytest.approx(expected.item(), rel=1e-5)


def test_pairs_of_levels_can_be_set(make_harness, batch):
    harness = make_harness("target_aware", layers=[(1, 2), (3, 5)])

    assert harness.method.student_taps == FeatureRequest(levels=(1, 3))
    assert harness.terms(batch)["target_aware"].isfinite()


def test_the_weights_are_those_of_the_variant_with_soft_labels(make_harness, batch):
    harness = make_harness("target_aware")
    unweighted = make_harness("target_aware", weight=1.0, label_weight=1.0, logits_weight=1.0).terms(batch)

    assert {n: t.item() for n, t in harness.terms(batch).items()} == pytest.approx(
        {"label": 0.5 * unweighted["label"].item(), "distillation": 0.5 * unweighted["distillation"].item()}
        | {"target_aware": 0.1 * unweighted["target_aware"].item()},
        rel=1e-5,
    )


def test_embeddings_compute_in_float32():
    assert Embed(6, 8)(torch.randn(2, 6, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_networks_of_one_pixel_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="maps of more than one pixel"):
        make_harness("target_aware", student=ONE_PIXEL)


def test_a_requested_level_of_one_pixel_is_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="/method/layers: a level of one pixel"):
        make_harness("target_aware", teachers=("cnn",), layers=[(3, 4)])


def test_heads_that_do_not_divide_the_teachers_width_are_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="5 heads do not divide the teacher's width 24"):
        make_harness("target_aware", heads=5)
