"""VkD: official values, the orthogonal projection under an optimizer, student variants, and errors."""

import copy

import pytest
import torch
from torch import nn

from core.errors import InvalidSpec, SpecCannotRun
from core.methods import Batch, Outputs, StepInfo
from core.models.align import OrthogonalProjector
from core.models.meta_device import on_meta
from core.models.taps import Feature
from core.train.optimizer import build_optimizer

STUDENT = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2})
TEACHER = ("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 12, "depth": 1, "num_heads": 3})


@pytest.fixture
def golden():
    """Draws of the official values from seed 0, in this order; the projection is the Q of a QR decomposition."""
    torch.manual_seed(0)
    tokens = torch.randn(4, 9, 8).requires_grad_()
    orthonormal, triangular = torch.linalg.qr(torch.randn(12, 8))
    projection = orthonormal * triangular.diagonal().sign()
    teacher_map = 2 * torch.randn(4, 12, 3, 3)
    class_logits, token_logits = torch.randn(4, 7).requires_grad_(), torch.randn(4, 7).requires_grad_()
    teacher_logits, targets = 2 * torch.randn(4, 7), torch.randn(4, 7).softmax(dim=1)
    student = Outputs(class_logits, (token_logits,), last=Feature(tokens, (3, 3)))
    teacher = Outputs(teacher_logits, last=Feature(teacher_map.flatten(2).transpose(1, 2), (3, 3)))
    return student, teacher, projection, Batch(torch.zeros(4, 1, 16, 16), targets, torch.arange(4))


def test_the_terms_match_the_official_code(make_harness, golden):
    student, teacher, projection, batch = golden
    method = make_harness("vkd", student=STUDENT, teachers=(TEACHER,)).method
    method.project.linear.weight = projection

    terms = method.loss(batch, student, [teacher], StepInfo())
    sum(terms.values()).backward()

    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"label": 2.1437452713780742, "distillation": 1.6021292933074736, "features": 0.42438039668572475}, rel=1e-5
    )
    gradients = [leaf.grad.norm().item() for leaf in (student.last.tokens, student.logits, *student.token_logits)]
    assert gradients == pytest.approx([0.02979618305031028, 0.2007886205574106, 0.3626290528057425], rel=1e-5)


def orthogonality_error(weight):
    """Largest deviation of WᵀW, or WWᵀ of a wide W, from the identity."""
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.mT
    return (tall.mT @ tall - torch.eye(tall.shape[1])).abs().max().item()


@pytest.mark.parametrize(("width", "out_width"), [(8, 12), (12, 8), (8, 8)])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion"])
def test_the_projection_stays_orthogonal_and_learns(width, out_width, optimizer, make_harness, batch):
    torch.manual_seed(0)
    method = make_harness("vkd", student=STUDENT, teachers=(TEACHER,)).method
    method.project = OrthogonalProjector(width, out_width)
    before = method.project.linear.weight.detach().clone()
    training = build_optimizer([method], name=optimizer, learning_rate=0.02, weight_decay=0.5)
    features, target = torch.randn(64, width), torch.randn(64, out_width)

    errors = []
    for _ in range(20):
        training.zero_grad()
        error = (method.project(features) - target).square().mean()
        error.backward()
        training.step()
        errors.append(error.item())

    assert errors[-1] < errors[0]
    assert (method.project.linear.weight - before).abs().max() > 0.01
    assert orthogonality_error(method.project.linear.weight) < 1e-5


@pytest.mark.parametrize(("width", "out_width"), [(8, 12), (12, 8), (8, 8)])
def test_a_projection_is_copied_and_loaded_bit_by_bit(width, out_width):
    features = torch.randn(3, width)
    projector, other = OrthogonalProjector(width, out_width), OrthogonalProjector(width, out_width)
    expected = projector(features)

    other.load_state_dict(projector.state_dict(), strict=True)

    assert torch.equal(other(features), expected)
    assert torch.equal(copy.deepcopy(projector)(features), expected)


@pytest.mark.parametrize(("width", "out_width"), [(8, 12), (12, 8), (8, 8)])
def test_a_projection_is_built_on_the_meta_device(width, out_width):
    with on_meta():
        projector = OrthogonalProjector(width, out_width)

    real = OrthogonalProjector(width, out_width).state_dict()
    assert {name: (tensor.shape, "meta") for name, tensor in real.items()} == {
        name: (tensor.shape, tensor.device.type) for name, tensor in projector.state_dict().items()
    }


def test_a_projection_preserves_distances():
    features = torch.randn(5, 8)

    torch.testing.assert_close(
        torch.cdist(*[OrthogonalProjector(8, 12)(features)] * 2), torch.cdist(features, features)
    )


@pytest.mark.parametrize(
    ("token", "stem", "architecture", "num_heads"),
    [
        (True, "patch", "deit_tiny_distilled_patch16_224", 2),
        (False, "patch", "vit_tiny_patch16_224", 1),
        (True, "conv", "potstill_vit", 2),
        (False, "conv", "potstill_vit", 1),
    ],
)
def test_the_student_has_the_requested_token_and_stem(make_harness, batch, token, stem, architecture, num_heads):
    harness = make_harness("vkd", token=token, stem=stem)

    terms = harness.terms(batch)

    assert list(terms) == ["label", "distillation", "features"]
    assert harness.student.architecture == architecture
    assert 1 + len(harness.student_outputs(batch.images).token_logits) == num_heads
    assert ("conv" in dict(harness.student.module.patch_embed.named_children())) == (stem == "conv")


def test_a_cnn_learns_without_a_token(make_harness, batch):
    terms = make_harness("vkd", student="cnn", teachers=("cnn",), token=False).terms(batch)

    assert all(term > 0 for term in terms.values())


def test_the_teachers_logits_are_not_read_without_their_term(make_harness, batch):
    harness = make_harness("vkd", token=False, logits_weight=0.0)

    assert list(harness.terms(batch)) == ["label", "features"]
    assert not harness.method.teacher_request.logits


@pytest.mark.parametrize(("normalization", "per_sample"), [("layer", True), ("standard", False)])
def test_standardization_compares_the_samples_of_a_batch(make_harness, normalization, per_sample):
    assert make_harness("vkd", normalization=normalization).method.per_sample is per_sample


def test_standardization_needs_two_samples_in_each_batch(make_harness):
    with pytest.raises(InvalidSpec, match="/training/batch_size: vkd compares the samples"):
        make_harness("vkd", normalization="standard", num_samples=1)


@pytest.mark.parametrize("params", [{}, {"token": False, "stem": "conv"}])
def test_a_cnn_with_a_token_or_a_stem_is_rejected(make_harness, params):
    with pytest.raises(InvalidSpec, match=r"/student/architecture: .* set token to false and stem to patch"):
        make_harness("vkd", student="cnn", **params)


@pytest.mark.parametrize("parameter", ["label_weight", "logits_weight"])
def test_a_token_without_a_target_is_rejected(make_harness, parameter):
    with pytest.raises(InvalidSpec, match=rf"/method/{parameter}: .* set token to false"):
        make_harness("vkd", **{parameter: 0.0})


def test_a_student_without_a_token_is_rejected(make_harness):
    with pytest.raises(SpecCannotRun, match="distillation token"):
        make_harness("vkd").method.prepare_student(nn.Linear(1, 4))
