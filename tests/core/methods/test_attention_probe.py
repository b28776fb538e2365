"""Pictures that the teacher chooses, and what the student learns from them."""

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
from core.methods.attention_probe import choose
from core.models.taps import FeatureRequest, run_tapped
from core.spec.methods.attention_probe import AttentionProbeParams

START = {"pool": "ds_pool"}


def pixels(count, *, seed, labels=None):
    images = np.random.default_rng(seed).integers(0, 256, (count, 1, 16, 16), dtype=np.uint8)
    return Pixels(images, torch.full((count,), -1) if labels is None else labels)


@pytest.fixture
def sources(tmp_path):
    """Makes sources around a lesson's teacher, with a pool of 40 pictures, and remembers events."""

    def make(lesson, *, labels=None, pool=None):
        events = []
        made = ImageSources(
            train=pixels(30, seed=1, labels=labels),
            unlabeled_pool=pool or pixels(40, seed=2),
            teachers=lesson.teachers,
            seed=3,
            cache_dir=tmp_path,
            poll=lambda: None,
            event=lambda *told: events.append(told),
        )
        return made, events

    return make


@pytest.fixture
def probing(lesson):
    """A lesson whose method knows the size of its pool."""

    def make(num_pool=40, **params):
        made = lesson("attention_probe", **params)
        setting = MethodContext(
            student=made.student, teachers=[t.built for t in made.teachers], num_classes=4, num_pool=num_pool
        )
        parameters = AttentionProbeParams.model_validate({"name": "attention_probe", **START, **params})
        return replace(made, method=build_method(parameters, setting))

    return make


def scores(teacher, images, *, blocks, confidence, attention):
    """The paper's score of one picture after another, in plain loops."""
    found = []
    for image in images:
        with torch.no_grad():
            one = torch.from_numpy(image[None]).float() / 255
            said = run_tapped(
                teacher.built.module, teacher.built.preprocessing(one), FeatureRequest(attentions=tuple(blocks))
            )
        value = confidence * -math.log(said.logits.softmax(dim=1).max().item())
        for block in blocks:
            row = said.attentions[block].weights[0, 0, 0, 1:].tolist()
            value += attention * sum(row) / math.sqrt(sum(a * a for a in row)) / math.sqrt(len(row))
        found.append(value)
    return np.array(found)


@pytest.mark.parametrize(("confidence", "attention"), [(0.9, 0.05), (0.0, 1.0)])
def test_the_lowest_scores_are_chosen(confidence, attention, probing, sources):
    made = probing(num_select=15, confidence_share=confidence, attention_share=attention)
    given, _ = sources(made)
    theirs = made.method.pairs[0][1], made.method.pairs[1][1]

    chosen = made.method.prepare_images(given)

    expected = scores(
        made.teachers[0], given.unlabeled_pool.images, blocks=theirs, confidence=confidence, attention=attention
    ).argsort()[:15]
    assert theirs == (1, 3)
    assert chosen.indices.tolist() == sorted(expected.tolist())
    assert np.array_equal(chosen.batch(torch.tensor([2])).numpy()[0], given.unlabeled_pool.images[sorted(expected)[2]])
    assert len(chosen) == made.method.num_images == 15


def test_half_of_the_pool_is_chosen_and_labels_are_not_handed_on(probing, sources):
    made = probing()
    given, events = sources(made, pool=pixels(40, seed=2, labels=torch.arange(40) % 4))

    chosen = made.method.prepare_images(given)

    assert len(chosen) == made.method.num_images == 20
    assert chosen.labels.tolist() == [-1] * 20
    ((kind, _, data),) = events
    assert (kind, data["chosen"], data["pool"]) == ("pool.chosen", 20, 40)


def test_the_pool_is_looked_at_once(probing, sources):
    first, second = probing(), probing()
    given, _ = sources(first)
    chosen = first.method.prepare_images(given)
    blind = replace(given, teachers=[None])

    again = second.method.prepare_images(blind)

    assert again.indices.tolist() == chosen.indices.tolist()
    assert second.method.teacher_accuracy == first.method.teacher_accuracy


@pytest.mark.parametrize("labelled", [True, False])
def test_the_teachers_accuracy_is_measured_where_there_are_labels(labelled, probing, sources):
    made = probing()
    images = pixels(30, seed=1).images
    with torch.no_grad():
        named = made.teachers[0](torch.from_numpy(images).float() / 255).logits.argmax(dim=1)
    given, _ = sources(made, labels=named if labelled else None)

    made.method.prepare_images(given)

    assert made.method.teacher_accuracy == (0.99 if labelled else 0.8)


def test_a_given_accuracy_is_taken(probing, sources):
    made = probing(teacher_accuracy=0.6)

    made.method.prepare_images(sources(made)[0])

    assert made.method.teacher_accuracy == 0.6


def test_a_balanced_choice_takes_the_best_of_each_class_in_turn():
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.8, 0.5], np.float32)
    named = np.array([0, 0, 0, 0, 1, 1, 2])

    assert choose(values, named, count=4, balanced=False).tolist() == [0, 1, 2, 3]
    assert choose(values, named, count=4, balanced=True).tolist() == [0, 1, 5, 6]
    assert choose(values, named, count=6, balanced=True).tolist() == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize("normalize", [True, False])
def test_the_terms_are_the_papers(normalize, lesson, batch):
    made = lesson("attention_probe", normalize=normalize, teacher_accuracy=0.7, probe_weight=0.5)
    student = made.ask(batch.images)
    teacher = made.teachers[0](batch.images)

    terms = made.terms(batch)

    differences = []
    for mine, theirs in made.method.pairs:
        rows = []
        for said in (student.levels[mine], teacher.levels[theirs]):
            tokens_BTD = F.normalize(said.all_tokens.float(), dim=1)
            if normalize:
                tokens_BTD = F.normalize(tokens_BTD, dim=2)
            rows.append((tokens_BTD @ tokens_BTD.transpose(1, 2))[:, 0, 1:])
        differences.append((rows[0] - rows[1]).square().mean())
    assert list(terms) == ["distillation", "noise", "probe"]
    assert made.method.pairs == ((1, 1), (2, 3), (3, 5))
    assert terms["probe"].item() == pytest.approx(0.5 * torch.stack(differences).mean().item(), rel=1e-4)
    assert terms["distillation"].item() == pytest.approx(
        kd(student.logits, teacher.logits, temperature=4.0).item(), rel=1e-4
    )
    noise = noise_adaptation(student.logits, teacher.logits, torch.zeros(4, 3), teacher_accuracy=0.7)
    assert terms["noise"].item() == pytest.approx(noise.item(), rel=1e-4)


def test_each_term_reaches_the_student_and_labels_reach_nothing(lesson, batch):
    made = lesson("attention_probe")
    weight = made.student.module.blocks[0].mlp.fc1.weight

    for term in made.terms(batch).values():
        (gradient,) = torch.autograd.grad(term, weight, retain_graph=True)
        assert gradient.abs().sum() > 0

    others = made.terms(replace(batch, labels=torch.full((6,), -1)))
    assert {n: t.item() for n, t in others.items()} == {n: t.item() for n, t in made.terms(batch).items()}


@pytest.mark.parametrize(
    ("pointer", "words", "given"),
    [
        ("/method/num_select", "the pool has 40", {"num_select": 41}),
        ("/method/layers", "there is no 9", {"layers": [[0, 9]]}),
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
def test_what_cannot_be_compared_is_refused(pointer, words, given, probing):
    with pytest.raises(InvalidSpec) as caught:
        probing(**given)

    ((found, detail),) = [(error.pointer, error.detail) for error in caught.value.errors]
    assert found == pointer
    assert words in detail
