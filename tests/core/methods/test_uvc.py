"""UVC: pruning under a budget, with the original student as teacher."""

from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.evaluate.flops import count_flops
from core.losses import kd
from core.methods import MethodContext, StepInfo, build_method
from core.methods.base import Batch
from core.models.built import BuiltModel
from core.models.preprocessing import plain_preprocessing
from core.spec.methods.uvc import UvcParams

STEPS = 12


def train(harness, batch, *, first=0, last=STEPS):
    """Train by plain gradient descent, with the trainer's order of calls."""
    for step in range(first, last):
        torch.manual_seed(step)
        info = StepInfo(step=step, total_steps=STEPS, epoch=step / 4, epochs=3)
        terms = harness.method.terms(batch, harness.step_context(info))
        parameters = list(harness.student.module.parameters())
        for parameter in parameters:
            parameter.grad = None
        sum(terms.values()).backward()
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-0.05)
        harness.method.after_step(harness.student.module, info)
    return harness


def logits_of(built, batch):
    built.module.eval()
    with torch.no_grad():
        return built(batch.images)


@pytest.mark.parametrize("budget", [0.25, 0.5, 0.8])
def test_the_exported_model_meets_the_budget_and_equals_the_masked_student(budget, make_harness, batch):
    harness = train(make_harness("uvc", budget=budget), batch)
    masked = logits_of(harness.student, batch)
    unpruned = timm.create_model("potstill_vit", **harness.student.arguments).eval()

    finished = harness.method.finalize(harness.student, None)

    one = batch.images[:1]
    assert count_flops(finished.module, one) <= budget * count_flops(unpruned, one)
    assert count_flops(finished.module, one) > (budget - 0.12) * count_flops(unpruned, one)
    torch.testing.assert_close(logits_of(finished, batch), masked, rtol=1e-4, atol=1e-5)
    assert timm.create_model(finished.architecture, **finished.arguments)


@pytest.mark.parametrize("part", ["heads", "dims", "hidden", "blocks"])
def test_each_part_can_be_pruned_alone(part, make_harness, batch):
    harness = train(make_harness("uvc", budget=0.85, prune=[part]), batch)

    arguments = harness.method.finalize(harness.student, None).arguments

    assert (arguments["depth"] < 4) == (part == "blocks")
    assert any(heads < 2 for heads in arguments["block_heads"]) == (part == "heads")
    assert any(dim < 8 for dims in arguments["block_dims"] for dim in dims) == (part == "dims")
    assert any(hidden < 64 for hidden in arguments["block_hidden"]) == (part == "hidden")


def test_masks_are_fixed_after_the_search_while_the_student_trains_on(make_harness, batch):
    harness = train(make_harness("uvc", search_share=0.5), batch, last=6)
    masks = {n: t.clone() for n, t in harness.method.state_dict().items()}
    before = logits_of(harness.student, batch)
    harness.student.module.train()

    train(harness, batch, first=6)

    after = harness.method.state_dict()
    assert all(torch.equal(after[name], mask) for name, mask in masks.items())
    assert not torch.equal(logits_of(harness.student, batch), before)


def test_nothing_is_pruned_during_the_warm_up(make_harness, batch):
    harness = make_harness("uvc", warmup_share=0.9)
    given = harness.student.module.state_dict()
    unpruned = timm.create_model("potstill_vit", **harness.student.arguments)
    unpruned.load_state_dict(given)

    harness.method.terms(batch, harness.step_context(StepInfo(step=0, total_steps=STEPS)))

    torch.testing.assert_close(
        logits_of(harness.student, batch), logits_of(replace(harness.student, module=unpruned), batch)
    )


def test_terms_are_labels_and_divergence_from_the_original_student(make_harness, batch):
    harness = make_harness("uvc", alpha=0.3, temperature=2.0, reduction="element", search_share=0.01)
    teacher = logits_of(harness.student, batch)
    with torch.no_grad():
        for parameter in harness.student.module.parameters():
            parameter.add_(0.05)
    student = logits_of(harness.student, batch)

    terms = harness.terms(batch, StepInfo(step=5, total_steps=STEPS))

    assert list(terms) == ["label", "distillation"]
    assert terms["label"].item() == pytest.approx(0.7 * F.cross_entropy(student, batch.labels).item(), rel=1e-5)
    soft = kd(student, teacher, temperature=2.0, reduction="element")
    assert terms["distillation"].item() == pytest.approx(0.3 * soft.item(), rel=1e-4)


def test_a_stopped_search_meets_the_budget(make_harness, batch):
    harness = train(make_harness("uvc", budget=0.5, search_share=0.9), batch, last=3)
    unpruned = count_flops(harness.student.module.eval(), batch.images[:1])

    finished = harness.method.finalize(harness.student, None)

    assert count_flops(finished.module, batch.images[:1]) <= 0.5 * unpruned


def test_a_search_resumed_from_its_state_has_the_same_result(make_harness, batch):
    uninterrupted = train(make_harness("uvc", search_share=0.8), batch)
    first = train(make_harness("uvc", search_share=0.8), batch, last=5)
    second = make_harness("uvc", search_share=0.8)
    second.method.load_state_dict(first.method.state_dict(), strict=True)
    second.student.module.load_state_dict(first.student.module.state_dict(), strict=True)

    train(second, batch, first=5)

    states = uninterrupted.method.state_dict(), second.method.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(uninterrupted.student.module.head.weight, second.student.module.head.weight)


def test_the_original_student_is_neither_saved_nor_trained(make_harness):
    method = make_harness("uvc").method

    assert all(name.startswith("search.") for name in method.state_dict())
    assert not list(method.parameters())


def test_a_student_may_be_prepared_twice(make_harness, batch):
    harness = train(make_harness("uvc", budget=0.3), batch)
    once = logits_of(harness.student, batch)

    harness.method.prepare_student(harness.student.module)

    assert (
        sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in harness.student.module.modules()) == 12
    )
    assert torch.equal(logits_of(harness.student, batch), once)


def test_mixed_batches_are_supported(make_harness, mixed):
    assert all(term.isfinite() for term in make_harness("uvc").terms(mixed).values())


def student(**form):
    arguments = {
        "img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 4, "embed_dim": 16, "depth": 4, "num_heads": 2,
        **form,
    }  # fmt: skip
    module = timm.create_model("potstill_vit", **arguments)
    return BuiltModel(module, "potstill_vit", arguments, plain_preprocessing(image_size=16, channels=1))


@pytest.mark.parametrize(
    ("pointer", "params", "options"),
    [
        ("/student/weights", {}, {"student_has_weights": False}),
        ("/method/budget", {"budget": 0.02}, {}),
        ("/method/budget", {"budget": 0.5, "prune": ["heads"]}, {}),
        ("/student/architecture", {}, {"student": student(block_heads=[1, 2, 2, 2])}),
    ],
)
def test_students_that_cannot_be_pruned_are_rejected(pointer, params, options):
    context = MethodContext(**{"student": student(), "num_classes": 4, **options})

    with pytest.raises(InvalidSpec) as caught:
        build_method(UvcParams(name="uvc", **params), context)

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_gates_are_sampled_and_trained_by_the_loss(make_harness, batch):
    harness = make_harness("uvc", prune=["blocks"], warmup_share=0.0, search_share=0.9)
    train(harness, batch, last=2)

    differences = harness.method.search.gates[:, 1] - harness.method.search.gates[:, 0]
    assert len(set(differences.tolist())) == 4


def test_batches_of_other_sizes_are_supported(make_harness, batch):
    harness = make_harness("uvc")
    few = Batch(batch.images[:2], batch.labels[:2], batch.indices[:2])

    assert train(harness, few)
