"""Structured pruning of ViTs: importance, shapes, targets, and what the pruned network computes."""

import pytest
import timm
import torch
import torch.nn.functional as F

from core.compress.pruning_target import PruningTarget, least_fraction, measured
from core.compress.vit_form import flexible_form
from core.compress.vit_importance import magnitude_importance, taylor_importance
from core.compress.vit_pruning import TargetUnreachable, check_prunable, prune_vit, smallest_measure
from core.compress.vit_shape import select_shape
from core.errors import InvalidSpec
from core.evaluate.measure import model_flops
from core.models.meta_device import count_parameters
from core.models.weights import load_folder, save_folder
from tests.core.compress.conftest import without_weights

PARTS = ("heads", "hidden", "width")


def no_poll():
    """Never interrupt."""


def importance_of(built):
    return magnitude_importance(flexible_form(built).module)


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "potstill_vit"])
def test_the_flexible_form_has_the_same_outputs(make_vit, images, architecture):
    built = make_vit(architecture)

    with torch.no_grad():
        torch.testing.assert_close(flexible_form(built)(images), built(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("part", ["heads", "hidden", "blocks"])
def test_taylor_importance_is_the_squared_gradient_of_a_gate(make_vit, batches, part):
    """Compared with finite differences of the loss of every image, without hooks."""
    built = flexible_form(make_vit())
    scores = taylor_importance(built, batches, poll=no_poll)
    block = built.module.blocks[1]
    step = 1e-3

    def loss(images, labels):
        with torch.no_grad():
            return F.cross_entropy(built(images), labels, reduction="none").double()

    def scaled(factor):
        """The losses of all images with one part multiplied by a factor."""
        weights = {
            "heads": [block.attn.proj.weight.data[:, 8:16]],
            "hidden": [block.mlp.fc2.weight.data[:, 5]],
            "blocks": [t.data for t in (*block.attn.proj.parameters(), *block.mlp.fc2.parameters())],
        }[part]
        saved = [weight.clone() for weight in weights]
        for weight in weights:
            weight.mul_(factor)
        losses = torch.cat([loss(*batch) for batch in batches])
        for weight, old in zip(weights, saved, strict=True):
            weight.copy_(old)
        return losses

    measured_score = {"heads": scores.heads[1][1], "hidden": scores.hidden[1][5], "blocks": scores.blocks[1]}[part]
    if part == "blocks":  # the gate scales the whole block, whose second half reads its first: one sign, one order
        assert measured_score > 0
        return
    expected = ((scaled(1 + step) - scaled(1 - step)) / (2 * step)).square().mean()
    assert measured_score.item() == pytest.approx(expected.item(), rel=0.02)


def test_the_importance_leaves_the_model_unchanged(make_vit, batches, images):
    built = flexible_form(make_vit())
    before = built(images).detach()

    taylor_importance(built, batches, poll=no_poll)

    assert torch.equal(built(images), before)
    assert all(parameter.grad is None for parameter in built.module.parameters())


def test_dead_parts_have_no_importance(make_vit, batches):
    built = flexible_form(make_vit())
    block = built.module.blocks[2]
    for weight in (block.mlp.fc1.weight.data[7], block.mlp.fc2.weight.data[:, 7], block.attn.proj.weight.data[:, :8]):
        weight.zero_()

    taylor, magnitude = taylor_importance(built, batches, poll=no_poll), magnitude_importance(built.module)

    assert taylor.hidden[2][7] == magnitude.hidden[2][7] == 0
    assert taylor.heads[2][0] == 0
    assert magnitude.heads[2].argmin() == 0


@pytest.mark.parametrize(("measure", "value"), [("flops", 0.3), ("parameters", 0.6)])
def test_the_pruned_network_is_as_small_as_the_target(make_vit, measure, value):
    built = make_vit()
    target = PruningTarget.relative_to(built, measure, value)

    pruned = prune_vit(built, importance_of(built), target, PARTS).model

    before, after = (
        (model_flops(built), model_flops(pruned))
        if measure == "flops"
        else (count_parameters(built.module), count_parameters(pruned.module))
    )
    assert value - 0.05 < after / before <= value
    assert sum(t.numel() for t in pruned.module.state_dict().values()) == count_parameters(pruned.module)


def test_a_saved_pruned_network_is_loaded_by_timm_with_the_same_logits(make_vit, images, tmp_path):
    built = make_vit("deit_tiny_distilled_patch16_224")
    target = PruningTarget.relative_to(built, "flops", 0.4)
    pruned = prune_vit(built, importance_of(built), target, (*PARTS, "blocks")).model
    save_folder(
        pruned.module,
        tmp_path,
        architecture=pruned.architecture,
        arguments=pruned.arguments,
        preprocessing=pruned.preprocessing,
    )

    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()

    inputs = pruned.preprocessing(images)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), pruned.module(inputs))
    assert (tmp_path / "model.safetensors").stat().st_size < 0.6 * 4 * count_parameters(built.module)
    assert torch.equal(load_folder(tmp_path)(images), pruned(images))


def test_heads_and_hidden_units_that_compute_nothing_are_removed_without_a_change(make_vit, images):
    built = make_vit()
    for block in built.module.blocks:
        block.attn.proj.weight.data[:, 16:] = 0
        block.attn.qkv.weight.data[16:48] = 0
        block.mlp.fc2.weight.data[:, 64:] = 0
        block.mlp.fc1.weight.data[64:] = 0
    full = built(images).detach()
    flexible = flexible_form(built)
    shape = select_shape(magnitude_importance(flexible.module), {"heads": 4 / 6, "hidden": 2 / 3})
    flops = measured("flops", "potstill_vit", shape.arguments(flexible), built.preprocessing)

    pruned = prune_vit(built, importance_of(built), PruningTarget("flops", flops), ("heads", "hidden")).model

    assert pruned.arguments["block_heads"] == [2] * 4
    torch.testing.assert_close(pruned(images), full, rtol=1e-4, atol=1e-4)


def test_blocks_of_equal_size_are_timms_own_vit(make_vit, images):
    built = make_vit()
    built.module.blocks[2].mlp.fc2.weight.data *= 0.01
    built.module.blocks[2].attn.proj.weight.data *= 0.01
    target = PruningTarget.relative_to(built, "parameters", 0.8)

    pruned = prune_vit(built, importance_of(built), target, ("blocks",)).model

    assert pruned.architecture == "vit_tiny_patch16_224"
    assert pruned.arguments["depth"] == 3
    assert torch.equal(pruned.module.blocks[2].norm1.weight, built.module.blocks[3].norm1.weight)
    assert torch.isfinite(pruned(images)).all()


def test_a_pruned_network_can_be_pruned_again(make_vit, images):
    built = make_vit()
    once = prune_vit(built, importance_of(built), PruningTarget.relative_to(built, "flops", 0.6), PARTS).model
    twice = prune_vit(once, importance_of(once), PruningTarget.relative_to(once, "flops", 0.6), PARTS).model

    assert model_flops(twice) <= 0.36 * model_flops(built)
    assert torch.isfinite(twice(images)).all()


def test_equal_inputs_give_equal_bits(make_vit, batches):
    def pruned():
        built = make_vit()
        scores = taylor_importance(flexible_form(built), batches, poll=no_poll)
        return prune_vit(built, scores, PruningTarget.relative_to(built, "flops", 0.5), PARTS).model.module.state_dict()

    first, second = pruned(), pruned()

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unreachable_targets_are_known_without_weights(make_vit):
    built = make_vit()
    target = PruningTarget.relative_to(built, "flops", 0.01)
    flexible = check_prunable(without_weights(built), PARTS)

    assert smallest_measure(flexible, target, PARTS) > target.limit
    with pytest.raises(TargetUnreachable):
        prune_vit(built, importance_of(built), target, PARTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 2}, "before sharing"),
        ({"merged_tokens": [1, 1, 1, 1]}, "before merging"),
        ({"local_blocks": 2}, "different kinds"),
        ({"lift_width": 8}, "leave width out"),
    ],
)
def test_students_that_cannot_be_pruned_are_refused(make_vit, options, message):
    with pytest.raises(InvalidSpec) as caught:
        check_prunable(make_vit("potstill_vit", **options), PARTS)

    assert message in caught.value.errors[0].detail


def test_other_transformers_are_refused(make_vit):
    built = make_vit()
    arguments = {
        "img_size": 32,
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
    }
    swin = timm.create_model("swin_tiny_patch4_window7_224", **arguments)
    with pytest.raises(InvalidSpec):
        check_prunable(type(built)(swin, "swin_tiny_patch4_window7_224", arguments, built.preprocessing), PARTS)


def test_the_least_fraction_is_found():
    assert least_fraction(lambda f: 10 - 8 * f, 6.0) == pytest.approx(0.5, abs=1e-3)
    assert least_fraction(lambda f: 10 - 8 * f, 11.0) == 0
    assert least_fraction(lambda f: 10 - 8 * f, 1.0) is None


def test_a_latency_is_measured(make_vit):
    built = make_vit()

    assert 0 < measured("latency_ms", built.architecture, built.arguments, built.preprocessing) < 1000
