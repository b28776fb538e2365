"""A student that gets smaller while its old self teaches it."""

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


def taught(made, batch, *, first=0, last=STEPS):
    """Steps of plain gradient descent, as the loop would take them."""
    for step in range(first, last):
        torch.manual_seed(step)
        moment = StepInfo(step=step, total_steps=STEPS, epoch=step / 4, epochs=3)
        terms = made.method.terms(batch, made.room(moment))
        parameters = list(made.student.module.parameters())
        for parameter in parameters:
            parameter.grad = None
        sum(terms.values()).backward()
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.add_(parameter.grad, alpha=-0.05)
        made.method.after_step(made.student.module, moment)
    return made


def answers(built, batch):
    built.module.eval()
    with torch.no_grad():
        return built(batch.images)


@pytest.mark.parametrize("budget", [0.25, 0.5, 0.8])
def test_what_is_exported_meets_the_budget_and_answers_as_the_masked_student(budget, lesson, batch):
    made = taught(lesson("uvc", budget=budget), batch)
    masked = answers(made.student, batch)
    whole = timm.create_model("potstill_vit", **made.student.arguments).eval()

    finished = made.method.finalize(made.student, None)

    one = batch.images[:1]
    assert count_flops(finished.module, one) <= budget * count_flops(whole, one)
    assert count_flops(finished.module, one) > (budget - 0.12) * count_flops(whole, one)
    torch.testing.assert_close(answers(finished, batch), masked, rtol=1e-4, atol=1e-5)
    assert timm.create_model(finished.architecture, **finished.arguments)


@pytest.mark.parametrize("part", ["heads", "dims", "hidden", "blocks"])
def test_each_part_can_be_pruned_alone(part, lesson, batch):
    made = taught(lesson("uvc", budget=0.85, prune=[part]), batch)

    arguments = made.method.finalize(made.student, None).arguments

    assert (arguments["depth"] < 4) == (part == "blocks")
    assert any(heads < 2 for heads in arguments["block_heads"]) == (part == "heads")
    assert any(dim < 8 for dims in arguments["block_dims"] for dim in dims) == (part == "dims")
    assert any(hidden < 64 for hidden in arguments["block_hidden"]) == (part == "hidden")


def test_the_student_learns_on_behind_the_search_and_its_masks_stay(lesson, batch):
    made = taught(lesson("uvc", search_share=0.5), batch, last=6)
    masks = {n: t.clone() for n, t in made.method.state_dict().items()}
    before = answers(made.student, batch)
    made.student.module.train()

    taught(made, batch, first=6)

    after = made.method.state_dict()
    assert all(torch.equal(after[name], mask) for name, mask in masks.items())
    assert not torch.equal(answers(made.student, batch), before)


def test_while_it_warms_up_the_student_is_whole(lesson, batch):
    made = lesson("uvc", warmup_share=0.9)
    given = made.student.module.state_dict()
    whole = timm.create_model("potstill_vit", **made.student.arguments)
    whole.load_state_dict(given)

    made.method.terms(batch, made.room(StepInfo(step=0, total_steps=STEPS)))

    torch.testing.assert_close(answers(made.student, batch), answers(replace(made.student, module=whole), batch))


def test_the_terms_are_the_labels_and_the_divergence_from_the_given_student(lesson, batch):
    made = lesson("uvc", alpha=0.3, temperature=2.0, reduction="element", search_share=0.01)
    guide = answers(made.student, batch)
    with torch.no_grad():
        for parameter in made.student.module.parameters():
            parameter.add_(0.05)
    student = answers(made.student, batch)

    terms = made.terms(batch, StepInfo(step=5, total_steps=STEPS))

    assert list(terms) == ["label", "distillation"]
    assert terms["label"].item() == pytest.approx(0.7 * F.cross_entropy(student, batch.labels).item(), rel=1e-5)
    soft = kd(student, guide, temperature=2.0, reduction="element")
    assert terms["distillation"].item() == pytest.approx(0.3 * soft.item(), rel=1e-4)


def test_a_stopped_search_ends_with_the_budget_as_well(lesson, batch):
    made = taught(lesson("uvc", budget=0.5, search_share=0.9), batch, last=3)
    whole = count_flops(made.student.module.eval(), batch.images[:1])

    finished = made.method.finalize(made.student, None)

    assert count_flops(finished.module, batch.images[:1]) <= 0.5 * whole


def test_a_search_that_goes_on_from_its_state_ends_the_same(lesson, batch):
    calm = taught(lesson("uvc", search_share=0.8), batch)
    first = taught(lesson("uvc", search_share=0.8), batch, last=5)
    second = lesson("uvc", search_share=0.8)
    second.method.load_state_dict(first.method.state_dict(), strict=True)
    second.student.module.load_state_dict(first.student.module.state_dict(), strict=True)

    taught(second, batch, first=5)

    states = calm.method.state_dict(), second.method.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert torch.equal(calm.student.module.head.weight, second.student.module.head.weight)


def test_the_given_student_is_in_no_checkpoint_and_never_trained(lesson):
    method = lesson("uvc").method

    assert all(name.startswith("search.") for name in method.state_dict())
    assert not list(method.parameters())


def test_a_student_may_be_prepared_twice(lesson, batch):
    made = taught(lesson("uvc", budget=0.3), batch)
    once = answers(made.student, batch)

    made.method.prepare_student(made.student.module)

    assert sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in made.student.module.modules()) == 12
    assert torch.equal(answers(made.student, batch), once)


def test_mixed_batches_are_taken(lesson, mixed):
    assert all(term.isfinite() for term in lesson("uvc").terms(mixed).values())


def student(**form):
    arguments = {
        "img_size": 16, "patch_size": 4, "in_chans": 1, "num_classes": 4, "embed_dim": 16, "depth": 4, "num_heads": 2,
        **form,
    }  # fmt: skip
    module = timm.create_model("potstill_vit", **arguments)
    return BuiltModel(module, "potstill_vit", arguments, plain_preprocessing(image_size=16, channels=1))


@pytest.mark.parametrize(
    ("pointer", "asked", "more"),
    [
        ("/student/weights", {}, {"student_has_weights": False}),
        ("/method/budget", {"budget": 0.02}, {}),
        ("/method/budget", {"budget": 0.5, "prune": ["heads"]}, {}),
        ("/student/architecture", {}, {"student": student(block_heads=[1, 2, 2, 2])}),
    ],
)
def test_what_cannot_be_pruned_is_refused(pointer, asked, more):
    setting = MethodContext(**{"student": student(), "num_classes": 4, **more})

    with pytest.raises(InvalidSpec) as caught:
        build_method(UvcParams(name="uvc", **asked), setting)

    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_gates_are_drawn_and_learn_from_the_loss(lesson, batch):
    made = lesson("uvc", prune=["blocks"], warmup_share=0.0, search_share=0.9)
    taught(made, batch, last=2)

    differences = made.method.search.gates[:, 1] - made.method.search.gates[:, 0]
    assert len(set(differences.tolist())) == 4


def test_batches_of_other_sizes_are_taken(lesson, batch):
    made = lesson("uvc")
    few = Batch(batch.images[:2], batch.labels[:2], batch.indices[:2])

    assert taught(made, few)
