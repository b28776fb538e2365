"""DearKD: a first stage with early layers of a CNN, a second stage with labels, and data-free training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.data.pixels import Pixels
from core.errors import InvalidSpec, SpecCannotRun
from core.methods import ImageSources, StepContext, StepInfo
from core.methods.dearkd import early_pairs
from core.models.structure import inspect_structure
from core.models.taps import Outputs

FIRST, SECOND = StepInfo(step=2, total_steps=10), StepInfo(step=9, total_steps=10)


def aligned(aligner, feature):
    """The aligner, position by position."""
    maps = F.pad(feature.map, (1, 1, 1, 1))
    height, width = feature.grid
    kernel = aligner.depthwise.weight[:, 0]
    values = []
    for row in range(height):
        for column in range(width):
            mixed = (maps[:, :, row : row + 3, column : column + 3] * kernel).sum(dim=(2, 3)) + aligner.depthwise.bias
            values.append(aligner.project(F.gelu(aligner.norm(mixed))))
    return torch.stack(values, dim=2).reshape(len(maps), -1, height, width)


def normal(maps):
    centred = maps - maps.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()


def test_the_first_stage_has_labels_decisions_and_early_maps(make_harness, batch):
    harness = make_harness("dearkd", alpha=0.3, weight=2.0)

    terms = harness.terms(batch, FIRST)

    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    (token,) = student.token_logits
    first = normal(aligned(harness.method.aligners[0], student.levels[0])) - normal(teacher.levels[1].map)
    pooled = F.avg_pool2d(aligned(harness.method.aligners[1], student.levels[1]), 2)  # to the CNN's 2 × 2
    second = normal(pooled) - normal(teacher.levels[2].map)
    early = (first.square().mean() + second.square().mean()) / 2
    assert harness.method.pairs == ((0, 1), (1, 2))
    assert list(terms) == ["label", "distillation", "early"]
    assert terms["label"].item() == pytest.approx(0.7 * F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    decision = teacher.logits.argmax(dim=1)
    assert terms["distillation"].item() == pytest.approx(0.3 * F.cross_entropy(token, decision).item(), rel=1e-5)
    assert terms["early"].item() == pytest.approx(2 * early.item(), rel=1e-4)


def test_the_distillation_head_can_learn_soft_labels(make_harness, batch):
    harness = make_harness("dearkd", distillation_type="soft", temperature=2.0, alpha=0.3)

    term = harness.terms(batch, FIRST)["distillation"].item()

    (token,), teacher = harness.student_outputs(batch.images).token_logits, harness.teachers[0](batch.images).logits
    p, q = (teacher / 2).softmax(dim=1), (token / 2).softmax(dim=1)
    assert term == pytest.approx(
        0.3 * 2**2 * (p * (p / q).log()).sum().item() / len(token), rel=2e-3
    )  # differences of equal numbers


def test_the_second_stage_has_labels_for_both_heads_and_runs_no_teacher(make_harness, batch, logits):
    method = make_harness("dearkd").method

    terms = method.terms(batch, StepContext(lambda _images: Outputs(logits(1), (logits(2),)), [None], SECOND))

    mean = (F.cross_entropy(logits(1), batch.labels) + F.cross_entropy(logits(2), batch.labels)) / 2
    assert list(terms) == ["label"]
    assert terms["label"].item() == pytest.approx(mean.item(), rel=1e-6)


@pytest.mark.parametrize(("step", "count"), [(0, 3), (4, 3), (5, 1), (9, 1)])
def test_the_first_stage_is_a_share_of_the_training(step, count, make_harness, batch):
    harness = make_harness("dearkd", first_stage=0.5)

    assert len(harness.terms(batch, StepInfo(step=step, total_steps=10))) == count


def test_early_maps_have_gradients_only_in_early_blocks(make_harness, batch):
    harness = make_harness("dearkd")
    blocks = harness.student.module.blocks

    terms = harness.terms(batch, FIRST)

    early = [blocks[i].mlp.fc1.weight for i in range(4)]
    found = torch.autograd.grad(terms["early"], early, allow_unused=True)
    assert [g is not None and bool(g.abs().sum() > 0) for g in found] == [True, True, False, False]


def test_pairs_lie_in_a_third_of_the_blocks_and_half_of_the_stages():
    vit, cnn = inspect_structure("vit_tiny_patch16_224", {}, 224), inspect_structure("resnet18", {}, 224)

    assert early_pairs(vit, cnn) == ((1, 1), (3, 2))


@pytest.mark.parametrize(("params", "num_local"), [({}, 2), ({"local_blocks": 0}, 0), ({"local_blocks": 4}, 4)])
def test_the_student_gets_a_distillation_token_and_local_blocks(params, num_local, make_harness):
    module = make_harness("dearkd", **params).student.module

    kinds = [type(block.attn).__name__ for block in module.blocks]
    assert kinds.count("LocalAttention") == num_local
    assert (module.options.distillation_tokens, module.options.local_blocks) == (1, num_local)


@pytest.mark.parametrize(
    ("params", "parameter"), [({"local_blocks": 5}, "local_blocks"), ({"layers": [[4, 0]]}, "layers")]
)
def test_missing_blocks_are_rejected(params, parameter, make_harness):
    with pytest.raises(InvalidSpec) as caught:
        make_harness("dearkd", **params)

    assert caught.value.errors[0].pointer == f"/method/{parameter}"


def test_a_student_without_a_distillation_token_is_rejected(make_harness):
    with pytest.raises(SpecCannotRun, match="distillation token"):
        make_harness("dearkd").method.prepare_student(torch.nn.Linear(1, 1))


def test_data_free_training_needs_batch_norms(make_harness):
    with pytest.raises(InvalidSpec, match="batch norms") as caught:
        make_harness("dearkd", teachers=(("convnext_atto", {}),), data_free=True)

    assert caught.value.errors[0].pointer == "/method/data_free"


def sources(harness, cache_dir, events=None):
    return ImageSources(
        train=Pixels(np.zeros((7, 1, 16, 16), np.uint8), torch.arange(7) % 4),
        unlabeled_pool=None,
        teachers=harness.teachers,
        seed=3,
        cache_dir=cache_dir,
        poll=lambda: None,
        event=lambda *event: None if events is None else events.append(event),
    )


def test_the_training_split_is_used_by_default(make_harness, tmp_path):
    harness = make_harness("dearkd")

    assert harness.method.num_images is None
    assert harness.method.prepare_images(sources(harness, tmp_path)) is None


def test_images_are_made_from_the_teacher_once(make_harness, tmp_path):
    harness, events = make_harness("dearkd", data_free=True, num_images=6, iterations=2), []

    pixels = harness.method.prepare_images(sources(harness, tmp_path, events))
    again = harness.method.prepare_images(sources(harness, tmp_path))

    assert (pixels.images.shape, pixels.images.dtype) == ((6, 1, 16, 16), np.uint8)
    assert pixels.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert len(pixels) == harness.method.num_images
    assert np.array_equal(pixels.images, again.images)
    assert events[0][0] == "data.inversion"
