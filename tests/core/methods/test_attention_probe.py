"""Attention Probe: selection of images from a pool, and the terms of the training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.data.pixels import Pixels
from core.errors import InvalidSpec
from core.losses import kd, noise_adaptation
from core.methods import ImageSources, MethodContext, build_method
from core.methods.attention_probe import select_lowest
from core.models.taps import FeatureRequest, run_tapped
from core.spec.methods.attention_probe import AttentionProbeParams
from core.train.optimizer import build_optimizer
from tests.support.features import all_tokens

REQUIRED = {"pool": "ds_pool"}


def pixels(count, *, seed, labels=None):
    images = np.random.default_rng(seed).integers(0, 256, (count, 1, 16, 16), dtype=np.uint8)
    return Pixels(images, torch.full((count,), -1) if labels is None else labels)


@pytest.fixture
def sources(tmp_path):
    """Make image sources with a harness's teachers and a pool of 40 images; also return the list of events."""

    def make(harness, *, labels=None, pool=None):
        events = []
        image_sources = ImageSources(
            train=pixels(30, seed=1, labels=labels),
            unlabeled_pool=pool or pixels(40, seed=2),
            teachers=harness.teachers,
            seed=3,
            cache_dir=tmp_path,
            poll=lambda: None,
            event=lambda *event: events.append(event),
        )
        return image_sources, events

    return make


@pytest.fixture
def probing(make_harness):
    """Make a harness whose method has a pool of ``num_pool`` images."""

    def make(num_pool=40, **params):
        harness = make_harness("attention_probe", **params)
        context = MethodContext(
            student=harness.student, teachers=[t.built for t in harness.teachers], num_classes=4, num_pool=num_pool
        )
        parameters = AttentionProbeParams.model_validate({"name": "attention_probe", **REQUIRED, **params})
        return replace(harness, method=build_method(parameters, context))

    return make


def scores(teacher, images, *, blocks, confidence, attention):
    """The paper's score of each image, in plain loops."""
    values = []
    for image in images:
        with torch.no_grad():
            one = torch.from_numpy(image[None]).float() / 255
            outputs = run_tapped(
                teacher.built.module, teacher.built.preprocessing(one), FeatureRequest(attentions=tuple(blocks))
            )
        value = confidence * -math.log(outputs.logits.softmax(dim=1).max().item())
        for block in blocks:
            row = outputs.attentions[block].weights[0, 0, 0, 1:].tolist()
            value += attention * sum(row) / math.sqrt(sum(a * a for a in row)) / math.sqrt(len(row))
        values.append(value)
    return np.array(values)


@pytest.mark.parametrize(("confidence", "attention"), [(0.9, 0.05), (0.0, 1.0)])
def test_images_with_the_lowest_scores_are_selected(confidence, attention, probing, sources):
    harness = probing(num_select=15, confidence_share=confidence, attention_share=attention)
    given, _ = sources(harness)
    teacher = harness.method.pairs[0][1], harness.method.pairs[1][1]

    selected = harness.method.prepare_images(given)

    expected = scores(
        harness.teachers[0], given.unlabeled_pool.images, blocks=teacher, confidence=confidence, attention=attention
    ).argsort()[:15]
    assert teacher == (1, 3)
    assert selected.indices.tolist() == sorted(expected.tolist())
    assert np.array_equal(
        selected.batch(torch.tensor([2])).numpy()[0], given.unlabeled_pool.images[sorted(expected)[2]]
    )
    assert len(selected) == harness.method.num_images == 15


def test_half_of_the_pool_is_selected_without_its_labels(probing, sources):
    harness = probing()
    given, events = sources(harness, pool=pixels(40, seed=2, labels=torch.arange(40) % 4))

    selected = harness.method.prepare_images(given)

    assert len(selected) == harness.method.num_images == 20
    assert selected.labels.tolist() == [-1] * 20
    ((kind, _, data),) = events
    assert (kind, data["chosen"], data["pool"]) == ("pool.chosen", 20, 40)


def test_the_pool_is_scored_once(probing, sources):
    first, second = probing(), probing()
    given, _ = sources(first)
    selected = first.method.prepare_images(given)
    without_teacher = replace(given, teachers=[None])

    again = second.method.prepare_images(without_teacher)

    assert again.indices.tolist() == selected.indices.tolist()
    assert second.method.teacher_accuracy == first.method.teacher_accuracy


@pytest.mark.parametrize("labelled", [True, False])
def test_teacher_accuracy_is_measured_if_there_are_labels(labelled, probing, sources):
    harness = probing()
    images = pixels(30, seed=1).images
    with torch.no_grad():
        named = harness.teachers[0](torch.from_numpy(images).float() / 255).logits.argmax(dim=1)
    given, _ = sources(harness, labels=named if labelled else None)

    harness.method.prepare_images(given)

    assert harness.method.teacher_accuracy == (0.99 if labelled else 0.8)


def test_a_given_teacher_accuracy_is_used(probing, sources):
    harness = probing(teacher_accuracy=0.6)

    harness.method.prepare_images(sources(harness)[0])

    assert harness.method.teacher_accuracy == 0.6


def test_a_balanced_selection_takes_the_best_of_each_class_in_turn():
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.5], np.float32)
    predictions = np.array([0, 0, 0, 0, 1, 1, 2])

    assert select_lowest(values, predictions, count=4, balanced=False).tolist() == [0, 1, 2, 3]
    assert select_lowest(values, predictions, count=4, balanced=True).tolist() == [0, 1, 5, 6]
    assert select_lowest(values, predictions, count=6, balanced=True).tolist() == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("normalize", [True, False])
def test_terms_match_the_paper(normalize, make_harness, batch):
    harness = make_harness("attention_probe", normalize=normalize, teacher_accuracy=0.7, probe_weight=0.5)
    student = harness.student_outputs(batch.images)
    teacher = harness.teachers[0](batch.images)

    terms = harness.terms(batch)

    differences = []
    for student_values, teacher_values in harness.method.pairs:
        rows = []
        for outputs in (student.levels[student_values], teacher.levels[teacher_values]):
            tokens_BTD = F.normalize(all_tokens(outputs).float(), dim=1)
            if normalize:
                tokens_BTD = F.normalize(tokens_BTD, dim=2)
            rows.append((tokens_BTD @ tokens_BTD.transpose(1, 2))[:, 0, 1:])
        differences.append((rows[0] - rows[1]).square().mean())
    assert list(terms) == ["distillation", "noise", "probe"]
    assert harness.method.pairs == ((1, 1), (2, 3), (3, 5))
    assert terms["probe"].item() == pytest.approx(0.5 * torch.stack(differences).mean().item(), rel=1e-4)
    assert terms["distillation"].item() == pytest.approx(
        kd(student.logits, teacher.logits, temperature=4.0).item(), rel=1e-4
    )
    noise = noise_adaptation(student.logits, teacher.logits, torch.zeros(4, 3), teacher_accuracy=0.7)
    assert terms["noise"].item() == pytest.approx(noise.item(), rel=1e-4)


def test_each_term_has_a_gradient_and_labels_are_not_used(make_harness, batch):
    harness = make_harness("attention_probe")
    weight = harness.student.module.blocks[0].mlp.fc1.weight

    for term in harness.terms(batch).values():
        (gradient,) = torch.autograd.grad(term, weight, retain_graph=True)
        assert gradient.abs().sum() > 0

    others = harness.terms(replace(batch, labels=torch.full((6,), -1)))
    assert {n: t.item() for n, t in others.items()} == {n: t.item() for n, t in harness.terms(batch).items()}


@pytest.mark.parametrize(
    ("pointer", "fragment", "params"),
    [
        ("/method/num_select", "the pool has 40", {"num_select": 41}),
        ("/method/layers", "level 9 does not exist", {"layers": [[0, 9]]}),
        (
            "/student/architecture",
            "4 patches and the teacher 16",
            {"student": ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2})},
        ),
        (
            "/teachers/0/architecture",
            "class token",
            {
                "teachers": [
                    (
                        "vit_tiny_patch16_224",
                        {
                            "patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3, "class_token": False,
                            "global_pool": "avg",
                        },
                    )
                ]
            },
        ),
    ],
)  # fmt: skip
def test_incompatible_networks_are_rejected(pointer, fragment, params, probing):
    with pytest.raises(InvalidSpec) as caught:
        probing(**params)

    ((actual, detail),) = [(error.pointer, error.detail) for error in caught.value.errors]
    assert actual == pointer
    assert fragment in detail


def test_the_noise_matrix_has_its_own_learning_rate_and_no_weight_decay(make_harness):
    harness = make_harness("attention_probe", noise_learning_rate=0.02)

    optimizer = build_optimizer([harness.student.module, harness.method], learning_rate=0.5, weight_decay=0.1)

    (group,) = [g for g in optimizer.param_groups if any(p is harness.method.noise for p in g["params"])]
    assert len(group["params"]) == 1
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.0)


def test_outputs_are_not_cached(make_harness):
    assert not make_harness("attention_probe").method.cacheable
    assert AttentionProbeParams.info.caches == ()
