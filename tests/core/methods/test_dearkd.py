"""Early layers of a CNN, then labels alone."""

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
    """The aligner place by place."""
    maps = F.pad(feature.map, (1, 1, 1, 1))
    height, width = feature.grid
    kernel = aligner.depthwise.weight[:, 0]
    places = []
    for row in range(height):
        for column in range(width):
            mixed = (maps[:, :, row : row + 3, column : column + 3] * kernel).sum(dim=(2, 3)) + aligner.depthwise.bias
            places.append(aligner.project(F.gelu(aligner.norm(mixed))))
    return torch.stack(places, dim=2).reshape(len(maps), -1, height, width)


def normal(maps):
    centred = maps - maps.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()


def test_the_first_stage_has_labels_decisions_and_early_maps(lesson, batch):
    made = lesson("dearkd", alpha=0.3, weight=2.0)

    terms = made.terms(batch, FIRST)

    student, teacher = made.ask(batch.images), made.teachers[0](batch.images)
    (token,) = student.token_logits
    first = normal(aligned(made.method.aligners[0], student.levels[0])) - normal(teacher.levels[1].map)
    pooled = F.avg_pool2d(aligned(made.method.aligners[1], student.levels[1]), 2)  # to the CNN's 2 × 2
    second = normal(pooled) - normal(teacher.levels[2].map)
    early = (first.square().mean() + second.square().mean()) / 2
    assert made.method.pairs == ((0, 1), (1, 2))
    assert list(terms) == ["label", "distillation", "early"]
    assert terms["label"].item() == pytest.approx(0.7 * F.cross_entropy(student.logits, batch.labels).item(), rel=1e-5)
    decision = teacher.logits.argmax(dim=1)
    assert terms["distillation"].item() == pytest.approx(0.3 * F.cross_entropy(token, decision).item(), rel=1e-5)
    assert terms["early"].item() == pytest.approx(2 * early.item(), rel=1e-4)


def test_the_second_stage_has_labels_for_both_heads_and_asks_no_teacher(lesson, batch, logits):
    method = lesson("dearkd").method

    terms = method.terms(batch, StepContext(lambda _images: Outputs(logits(1), (logits(2),)), [None], SECOND))

    mean = (F.cross_entropy(logits(1), batch.labels) + F.cross_entropy(logits(2), batch.labels)) / 2
    assert list(terms) == ["label"]
    assert terms["label"].item() == pytest.approx(mean.item(), rel=1e-6)


@pytest.mark.parametrize(("step", "count"), [(0, 3), (4, 3), (5, 1), (9, 1)])
def test_the_first_stage_is_a_share_of_the_training(step, count, lesson, batch):
    made = lesson("dearkd", first_stage=0.5)

    assert len(made.terms(batch, StepInfo(step=step, total_steps=10))) == count


def test_early_maps_reach_early_blocks_alone(lesson, batch):
    made = lesson("dearkd")
    blocks = made.student.module.blocks

    terms = made.terms(batch, FIRST)

    early = [blocks[i].mlp.fc1.weight for i in range(4)]
    found = torch.autograd.grad(terms["early"], early, allow_unused=True)
    assert [g is not None and bool(g.abs().sum() > 0) for g in found] == [True, True, False, False]


def test_pairs_lie_in_a_third_of_the_blocks_and_half_of_the_stages():
    vit, cnn = inspect_structure("vit_tiny_patch16_224", {}, 224), inspect_structure("resnet18", {}, 224)

    assert early_pairs(vit, cnn) == ((1, 1), (3, 2))


@pytest.mark.parametrize(("asked", "local"), [({}, 2), ({"local_blocks": 0}, 0), ({"local_blocks": 4}, 4)])
def test_the_student_gets_a_distillation_token_and_local_blocks(asked, local, lesson):
    module = lesson("dearkd", **asked).student.module

    kinds = [type(block.attn).__name__ for block in module.blocks]
    assert kinds.count("LocalAttention") == local
    assert (module.form.distillation_tokens, module.form.local_blocks) == (1, local)


@pytest.mark.parametrize(
    ("asked", "parameter"), [({"local_blocks": 5}, "local_blocks"), ({"layers": [[4, 0]]}, "layers")]
)
def test_blocks_that_are_not_there_are_refused(asked, parameter, lesson):
    with pytest.raises(InvalidSpec) as refused:
        lesson("dearkd", **asked)

    assert refused.value.errors[0].pointer == f"/method/{parameter}"


def test_a_student_without_a_distillation_token_is_refused(lesson):
    with pytest.raises(SpecCannotRun, match="distillation token"):
        lesson("dearkd").method.prepare_student(torch.nn.Linear(1, 1))


def test_without_batch_norms_there_is_no_training_without_data(lesson):
    with pytest.raises(InvalidSpec, match="batch norms") as refused:
        lesson("dearkd", teachers=(("convnext_atto", {}),), data_free=True)

    assert refused.value.errors[0].pointer == "/method/data_free"


def sources(made, folder, told=None):
    return ImageSources(
        train=Pixels(np.zeros((7, 1, 16, 16), np.uint8), torch.arange(7) % 4),
        unlabeled_pool=None,
        teachers=made.teachers,
        seed=3,
        cache_dir=folder,
        poll=lambda: None,
        event=lambda *said: None if told is None else told.append(said),
    )


def test_real_pictures_are_used_where_nothing_else_is_asked_for(lesson, tmp_path):
    made = lesson("dearkd")

    assert made.method.num_images is None
    assert made.method.prepare_images(sources(made, tmp_path)) is None


def test_pictures_are_made_once_from_the_teacher(lesson, tmp_path):
    made, told = lesson("dearkd", data_free=True, num_images=6, iterations=2), []

    pixels = made.method.prepare_images(sources(made, tmp_path, told))
    again = made.method.prepare_images(sources(made, tmp_path))

    assert (pixels.images.shape, pixels.images.dtype) == ((6, 1, 16, 16), np.uint8)
    assert pixels.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert len(pixels) == made.method.num_images
    assert np.array_equal(pixels.images, again.images)
    assert told[0][0] == "data.inversion"
