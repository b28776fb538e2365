"""Proteus: class token, features and masked patches of a ViT teacher, without labels."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from core.errors import InvalidSpec, SpecCannotRun
from core.methods import Batch, StepInfo, build_method
from core.models.patch_masking import replace_patches
from core.spec.methods.proteus import ProteusParams

VIT = "vit_tiny_patch16_224"
SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 3}
FIRST_EPOCH, SECOND_EPOCH = (StepInfo(step=step, total_steps=10, epoch=step / 5, epochs=2) for step in (0, 5))


def hidden_patches(harness, batch, epoch=0):
    return harness.method.draw_masks(batch.indices, epoch)


def test_the_terms_are_the_squared_errors_of_three_heads(make_harness, batch):
    harness = make_harness("proteus", token_weight=2.0, feature_weight=3.0, patch_weight=4.0, masked_pictures=1.0)
    method, student = harness.method, harness.student_outputs(batch.images).last
    teacher = harness.teachers[0](batch.images).last
    hidden = hidden_patches(harness, batch)
    with replace_patches(harness.student.module, hidden, method.mask_token):
        masked = harness.student_outputs(batch.images).last
    token = method.token_head(student.prefix[:, 0])
    whole = torch.cat((token[:, None], method.feature_head(student.tokens)), dim=1)
    teacher_whole = torch.cat((teacher.prefix[:, :1], teacher.tokens), dim=1)

    terms = harness.terms(batch, FIRST_EPOCH)

    assert list(terms) == ["token", "features", "patches"]
    assert terms["token"].item() == pytest.approx(2 * F.mse_loss(token, teacher.prefix[:, 0]).item(), rel=1e-5)
    assert terms["features"].item() == pytest.approx(3 * F.mse_loss(whole, teacher_whole).item(), rel=1e-5)
    error = F.mse_loss(method.patch_head(masked.tokens)[hidden], teacher.tokens[hidden])
    assert terms["patches"].item() == pytest.approx(4 * error.item(), rel=1e-5)


def test_only_masked_images_pass_a_second_time_and_each_has_a_constant_weight(make_harness, batch):
    harness = make_harness("proteus", masked_pictures=0.5)
    passes = []
    harness.student.module.register_forward_pre_hook(lambda _module, inputs: passes.append(len(inputs[0])))
    teacher = harness.teachers[0](batch.images).last
    hidden = hidden_patches(harness, batch)
    num_masked = int(hidden.any(dim=1).sum())
    with replace_patches(harness.student.module, hidden, harness.method.mask_token):
        masked = harness.student_outputs(batch.images).last
    passes.clear()

    terms = harness.terms(batch, FIRST_EPOCH)

    assert 0 < num_masked < 6
    error = F.mse_loss(harness.method.patch_head(masked.tokens)[hidden], teacher.tokens[hidden]).item()
    assert terms["patches"].item() == pytest.approx(error * num_masked / 3, rel=1e-5)


def test_masks_depend_on_seed_epoch_and_sample_only(make_harness, batch):
    harness = make_harness("proteus", masked_pictures=1.0)
    hidden = hidden_patches(harness, batch)
    reversed_batch = replace(batch, indices=batch.indices.flip(0))

    assert hidden.sum(dim=1).tolist() == [8] * 6  # half of 4 × 4 patches
    assert len({tuple(row) for row in hidden.tolist()}) == 6
    assert hidden_patches(harness, reversed_batch).flip(0).equal(hidden)
    assert not hidden_patches(harness, batch, epoch=1).equal(hidden)
    assert harness.terms(batch, FIRST_EPOCH)["patches"] != harness.terms(batch, SECOND_EPOCH)["patches"]


def test_the_share_of_masked_images_is_their_probability(make_harness):
    harness = make_harness("proteus", masked_pictures=0.25, mask_share=0.4)

    hidden = harness.method.draw_masks(torch.arange(2000), 3)

    assert set(hidden.sum(dim=1).tolist()) == {0, 6}  # int(0.4 · 16)
    assert hidden.any(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert hidden[hidden.any(dim=1)].float().mean(dim=0).std() < 0.05  # all places alike


def test_a_batch_without_masked_images_has_no_patch_error_but_a_gradient(make_harness, batch):
    harness = make_harness("proteus", token_weight=0.0, feature_weight=0.0, masked_pictures=0.001)

    (patches,) = harness.terms(batch, FIRST_EPOCH).values()
    patches.backward()

    assert patches == 0
    assert harness.method.mask_token.grad.abs().sum() == 0


def test_clip_learns_from_the_token_in_one_pass(make_harness, batch):
    harness = make_harness("proteus", feature_weight=0.0, patch_weight=0.0)

    assert list(harness.terms(batch)) == ["token"]
    assert {name.split(".")[0] for name, _ in harness.method.named_parameters()} == {"token_head"}


@pytest.mark.parametrize("normalization", ["channel", "phi_s"])
def test_the_teacher_is_standardized_by_statistics_of_the_first_batches(make_harness, batch, normalization):
    harness = make_harness("proteus", normalization=normalization)
    method, teacher = harness.method, harness.teachers[0](batch.images)
    tokens = [teacher.last.prefix[:, 0], teacher.last.tokens.flatten(0, 1)]

    method.prepare_training([[teacher]])

    found = [method.standardizers[part](rows) for part, rows in zip(("token", "patches"), tokens, strict=True)]
    assert all(rows.mean(dim=0).abs().max() < 1e-3 for rows in found)
    assert all(rows.var(dim=0).mean().item() == pytest.approx(1, rel=0.05) for rows in found)
    whole = method.token_head(harness.student_outputs(batch.images).last.prefix[:, 0])
    expected = F.mse_loss(whole, found[0]).item()
    assert harness.terms(batch)["token"].item() == pytest.approx(expected, rel=1e-4)
    assert method.per_sample
    assert method.num_statistics_batches == 100


def test_a_resumed_training_has_the_same_statistics(make_harness, batch):
    first, resumed = (make_harness("proteus", normalization="phi_s") for _ in range(2))
    first.method.prepare_training([[first.teachers[0](batch.images)]])

    resumed.method.load_state_dict(first.method.state_dict())

    assert {n: t.item() for n, t in resumed.terms(batch).items()} == {
        n: t.item() for n, t in first.terms(batch).items()
    }


def test_a_teacher_whose_tokens_do_not_vary_cannot_be_standardized(make_harness, batch):
    harness = make_harness("proteus", normalization="phi_s")
    same = replace(batch, images=torch.zeros_like(batch.images))

    with pytest.raises(SpecCannotRun, match="do not vary"):
        harness.method.prepare_training([[harness.teachers[0](same.images)]])


def test_labels_are_not_used(make_harness, batch):
    unlabeled = Batch(batch.images, torch.full((6,), -1), batch.indices)

    known, unknown = make_harness("proteus").terms(batch), make_harness("proteus").terms(unlabeled)

    assert {n: t.item() for n, t in known.items()} == {n: t.item() for n, t in unknown.items()}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_weight": 0, "feature_weight": 0, "patch_weight": 0}, "every weight is 0"),
        ({"mask_share": 0}, "unless patch_weight is 0"),
        ({"masked_pictures": 0}, "unless patch_weight is 0"),
        ({"mask_share": 0.95}, "less than or equal to 0.9"),
    ],
)
def test_parameters_that_teach_nothing_are_rejected(fields, message):
    with pytest.raises(ValidationError, match=message):
        ProteusParams(name="proteus", **fields)


def test_patches_need_no_masks_if_they_have_no_weight():
    assert ProteusParams(name="proteus", mask_share=0, patch_weight=0).mask_share == 0


@pytest.mark.parametrize(
    ("options", "pointer", "message"),
    [
        (
            {"teachers": [(VIT, {**SIZES, "patch_size": 8})]},
            "/student/architecture",
            "set the student's patch_size to 8",
        ),
        ({"teachers": ["cnn"]}, "/teachers/0/architecture", "no plain ViT with a class token"),
        ({"student": "cnn"}, "/student/architecture", "use a vit_"),
        (
            {"student": (VIT, {**SIZES, "patch_size": 4, "class_token": False, "global_pool": "avg"})},
            "/student/architecture",
            "class token",
        ),
        ({"mask_share": 0.01}, "/method/mask_share", "masks no patch"),
    ],
)
def test_an_unsupported_pair_is_rejected_with_a_fix(make_harness, options, pointer, message):
    with pytest.raises(InvalidSpec, match=message) as caught:
        make_harness("proteus", **options)

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_a_student_whose_patches_cannot_be_masked_is_rejected(context):
    student = replace(context.student, module=torch.nn.Identity())

    with pytest.raises(InvalidSpec, match="masks embedded patches"):
        build_method(ProteusParams(name="proteus"), replace(context, student=student))
