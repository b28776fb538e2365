"""Agglomeration of several foundation models: terms, statistics, dropped teachers, and networks it refuses."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from core.data.views import sample_draws
from core.errors import InvalidSpec, SpecCannotRun
from core.losses import drop_teachers, embedding_match
from core.methods import Batch, MethodContext, StepInfo, build_method
from core.models.structure import structure_of
from core.seeds import derive_seed
from core.spec import METHODS, parse_job_spec
from core.spec.examples import example_job
from tests.core.methods.conftest import STUDENTS, TEACHERS, model

TINY = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
REGISTERS = ("vit_small_patch14_reg4_dinov2", TINY)  # a class token and four registers
DINOV3 = ("vit_small_patch16_dinov3", TINY)  # rotary positions, mean pooling, class token and registers
SIGLIP = ("vit_base_patch16_siglip_224", TINY)  # no class token, attention pooling
HYBRID = ("vit_base_patch16_clip_224", {**TINY, "patch_size": 8})  # a grid of 2 × 2


def estimate(harness, batches):
    """Estimate the statistics of the method from batches of images."""
    harness.method.prepare_training([[t(b.images) for t in harness.teachers] for b in batches])


def make_method(params, teachers=("transformer",), student="transformer", **context):
    fields = {"num_samples": 24, "batch_size": 6, "num_classes": 4, **context}
    networks = [model(*(TEACHERS[t] if isinstance(t, str) else t)) for t in teachers]
    built = model(*(STUDENTS[student] if isinstance(student, str) else student))
    parameters = METHODS["agglomerate"].params(name="agglomerate", **params)
    return build_method(parameters, MethodContext(student=built, teachers=networks, **fields))


def test_the_terms_of_one_teacher_match_their_definitions(make_harness, batch):
    harness = make_harness("agglomerate", summary_weight=2.0, patch_weight=3.0)
    estimate(harness, [batch])
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    heads = harness.method.heads
    summary = F.cosine_similarity(heads["summary_0"](student.embedding), teacher.embedding)
    target = harness.method.standardizers["patches_0"](teacher.last.tokens)
    patches = embedding_match(
        heads["patches_0"](student.last.tokens), target, cosine_weight=0.9, smooth_l1_weight=0.1, beta=2.0
    )

    terms = harness.terms(batch)

    assert list(terms) == ["summary_0", "patches_0"]
    assert terms["summary_0"].item() == pytest.approx(2 * (1 - summary).mean().item(), rel=1e-5)
    assert terms["patches_0"].item() == pytest.approx(3 * patches.item(), rel=1e-5)


def test_phi_s_gives_the_patch_features_of_every_teacher_the_same_scale(make_harness, batch):
    harness = make_harness("agglomerate", teachers=("transformer", REGISTERS))
    estimate(harness, [batch])

    for index, teacher in enumerate(harness.teachers):
        rows = harness.method.standardizers[f"patches_{index}"](teacher(batch.images).last.tokens).flatten(0, 1)
        assert rows.var(dim=0).tolist() == pytest.approx([1.0] * 24, rel=1e-3)
        assert rows.mean(dim=0).abs().max() < 1e-3


def test_prefix_tokens_are_never_patches(make_harness, batch):
    harness = make_harness("agglomerate", teachers=(REGISTERS, DINOV3))
    outputs = [teacher(batch.images) for teacher in harness.teachers]

    assert [o.last.prefix.shape[1] for o in outputs] == [5, 5]
    for index, output in enumerate(outputs):
        assert harness.method._target("patches", index, output).tokens.shape == (6, 16, 24)


def test_the_summary_is_the_class_token_or_the_pooled_embedding(make_harness, batch):
    harness = make_harness("agglomerate", teachers=(REGISTERS, DINOV3, SIGLIP))
    outputs = [teacher(batch.images) for teacher in harness.teachers]
    found = [harness.method._target("summary", index, output).tokens[:, 0] for index, output in enumerate(outputs)]

    assert harness.method.summaries == ["embedding", "class", "embedding"]
    torch.testing.assert_close(found[0], outputs[0].last.prefix[:, 0])
    assert found[1].equal(outputs[1].last.prefix[:, 0])
    assert found[2].equal(outputs[2].embedding)


def test_means_of_patches_can_be_the_summary(make_harness, batch):
    pooled = ("vit_tiny_patch16_224", {**STUDENTS["transformer"][1], "global_pool": "avg"})
    harness = make_harness("agglomerate", student=pooled, teachers=(DINOV3,), summary="mean")
    output = harness.teachers[0](batch.images)

    torch.testing.assert_close(harness.method._target("summary", 0, output).tokens[:, 0], output.last.tokens.mean(1))


@pytest.mark.parametrize(
    ("teacher", "num_prefix_tokens", "summary"),
    [
        ("vit_small_patch14_dinov2", 1, "embedding"),
        ("eva02_small_patch14_224", 1, "class"),
        ("vit_base_patch16_radio_v3", 8, "embedding"),
        ("vit_base_patch16_clip_224", 1, "embedding"),
        ("vit_base_patch16_siglip_gap_224", 0, "embedding"),
    ],
)
def test_families_of_foundation_models_are_read(teacher, num_prefix_tokens, summary, make_harness, batch):
    harness = make_harness("agglomerate", teachers=((teacher, TINY),))
    estimate(harness, [batch])
    last = harness.teachers[0](batch.images).last

    assert (0 if last.prefix is None else last.prefix.shape[1]) == num_prefix_tokens
    assert last.tokens.shape == (6, 16, 24)
    assert harness.method.summaries == [summary]
    assert all(term.isfinite() for term in harness.terms(batch).values())


def test_only_summaries_are_cached_where_patches_are_not_read(make_harness):
    request = make_harness("agglomerate", teachers=(REGISTERS, SIGLIP), patch_weight=0.0).method.teacher_request

    assert (request.last, request.embedding, request.logits) == (False, True, False)


def test_a_finer_grid_is_averaged_to_the_teachers(make_harness, batch):
    harness = make_harness("agglomerate", teachers=(HYBRID,), summary_weight=0.0, normalization="none")
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    predicted = harness.method.heads["patches_0"](student.last.tokens).mT.reshape(6, 24, 4, 4)
    tokens = F.avg_pool2d(predicted, 2).flatten(2).mT
    expected = embedding_match(tokens, teacher.last.tokens, cosine_weight=0.9, smooth_l1_weight=0.1, beta=2.0)

    assert teacher.last.grid == (2, 2)
    assert harness.terms(batch)["patches_0"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_labels_are_not_used(make_harness, batch):
    unlabeled = Batch(batch.images, torch.full((6,), -1), batch.indices)

    known, unknown = (make_harness("agglomerate").terms(b) for b in (batch, unlabeled))

    assert {n: t.item() for n, t in known.items()} == {n: t.item() for n, t in unknown.items()}


@pytest.mark.parametrize(
    ("params", "statistics"),
    [
        ({}, {"patches_0"}),
        ({"normalization": "channel"}, {"summary_0", "patches_0"}),
        ({"normalization": "channel", "patch_weight": 0.0}, {"summary_0"}),
        ({"normalization": "none"}, set()),
        ({"patch_weight": 0.0}, set()),
    ],
)
def test_only_features_that_are_standardized_have_statistics(params, statistics):
    method = make_method(params)

    assert set(method.standardizers) == statistics
    assert method.num_statistics_batches == (100 if statistics else 0)


def test_a_ladder_adds_up_the_levels_of_the_student(make_harness, batch):
    harness = make_harness("agglomerate", ladder=[1, 3], normalization="none")
    student, teacher = harness.student_outputs(batch.images), harness.teachers[0](batch.images)
    head = harness.method.heads["summary_0"]
    rungs = [rung(student.levels[level].prefix[:, 0]) for rung, level in zip(head.rungs, (1, 3), strict=True)]
    cosine = F.cosine_similarity(sum(rungs), teacher.embedding)

    assert harness.terms(batch)["summary_0"].item() == pytest.approx((1 - cosine).mean().item(), rel=1e-5)


# --- several teachers -------------------------------------------------------------------------------


def test_teachers_are_dropped_by_seed_epoch_and_sample(make_harness, batch):
    harness = make_harness("agglomerate", teachers=("transformer", REGISTERS), normalization="none")
    method, info = harness.method, StepInfo(step=5, total_steps=8, epoch=1.25, epochs=2)
    student, teachers = harness.student_outputs(batch.images), [t(batch.images) for t in harness.teachers]
    matches = [method._match(index, student, teacher) for index, teacher in enumerate(teachers)]
    losses_TB = torch.stack([match["summary"] + match["patches"] for match in matches]).detach()
    draws_TB = sample_draws(derive_seed(0, "dropped teachers"), 1, batch.indices, 2).T
    expected = (drop_teachers(losses_TB, draws_TB, probability=0.5) * losses_TB).sum()

    assert sum(harness.terms(batch, info).values()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert not method.per_sample


def test_a_sample_loses_the_same_teachers_in_any_batch():
    method, info = make_method({}, teachers=("transformer", REGISTERS)), StepInfo(epoch=3.5, epochs=5)
    losses_TB, indices_B = torch.rand(2, 6), torch.tensor([3, 1, 20, 8, 11, 2])

    whole = method._sample_weights(losses_TB, indices_B, info) > 0
    turned = method._sample_weights(losses_TB.flip(1)[:, :4], indices_B.flip(0)[:4], info) > 0

    assert turned.equal(whole.flip(1)[:, :4])


def test_teacher_weights_are_shares():
    method = make_method({"teacher_weights": [3, 1], "drop_probability": 0.0}, teachers=("transformer", REGISTERS))

    weights_TB = method._sample_weights(torch.rand(2, 5), torch.arange(5), StepInfo())

    assert weights_TB.sum(dim=1).tolist() == pytest.approx([0.75, 0.25])
    assert method.per_sample


def test_a_teacher_of_weight_zero_does_not_replace_the_others():
    method = make_method({"teacher_weights": [0, 1], "drop_probability": 1.0}, teachers=("transformer", REGISTERS))

    weights_TB = method._sample_weights(torch.tensor([[9.0, 9.0], [1.0, 1.0]]), torch.arange(2), StepInfo())

    assert weights_TB.tolist() == [[0, 0], [0.5, 0.5]]


def test_the_cosine_to_each_teacher_is_measured_in_its_own_space(make_harness, batch):
    harness = make_harness("agglomerate", teachers=("transformer", SIGLIP), normalization="channel")
    estimate(harness, [batch])
    student, teachers = harness.student_outputs(batch.images), [t(batch.images) for t in harness.teachers]
    predicted = harness.method.heads["summary_1"](student.embedding)
    own = harness.method.standardizers["summary_1"].inverse(predicted)

    found = harness.method.test_metrics(student, teachers)

    assert list(found) == [f"teacher/{i}/{kind}_cosine" for i in (0, 1) for kind in ("summary", "patches")]
    torch.testing.assert_close(found["teacher/1/summary_cosine"], F.cosine_similarity(own, teachers[1].embedding))


# --- refusals ---------------------------------------------------------------------------------------


def refusal(*arguments, **options):
    with pytest.raises(InvalidSpec) as caught:
        make_method(*arguments, **options)
    (error,) = caught.value.errors
    return error.pointer, error.detail


@pytest.mark.parametrize(
    ("params", "options", "pointer", "words"),
    [
        ({"summary": "class"}, {"teachers": [SIGLIP]}, "/teachers/0/architecture", "summary to auto or mean"),
        ({"summary": "class"}, {"student": "cnn"}, "/method/summary", "global_pool to token"),
        ({"summary": "mean"}, {}, "/method/summary", "global_pool to avg"),
        ({"ladder": [0, 2]}, {}, "/method/ladder", "last level, 3"),
        ({"ladder": [0, 1]}, {"student": "cnn"}, "/method/ladder", "no ViT"),
        ({"teacher_weights": [1, 2]}, {}, "/method/teacher_weights", "one for each"),
        ({}, {"teachers": ["cnn"]}, "/method/statistics_batches", "normalization channel or none"),
        ({"statistics_batches": 3}, {"teachers": ["cnn"], "num_samples": 1000}, "/method/statistics_batches", "to 6"),
        ({"normalization": "channel"}, {"batch_size": 1}, "/training/batch_size", "needs 2"),
    ],
)
def test_what_cannot_work_is_refused_with_a_fix(params, options, pointer, words):
    found, detail = refusal(params, **options)

    assert found == pointer
    assert words in detail


@pytest.mark.parametrize("missing", ["embedding", "last"])
def test_networks_without_features_are_refused(missing, monkeypatch):
    monkeypatch.setattr("core.methods.base.structure_of", lambda built: replace(structure_of(built), **{missing: None}))

    pointer, detail = refusal({"normalization": "none"}, teachers=[SIGLIP])

    assert pointer == ("/teachers/0/architecture" if missing == "embedding" else "/student/architecture")
    assert "_weight to 0" in detail


@pytest.mark.parametrize(
    ("method", "pointer"),
    [
        ({"ladder": [2, 1]}, "/method/ladder"),
        ({"teacher_weights": [0]}, "/method/teacher_weights"),
        ({"summary_weight": 0, "patch_weight": 0}, "/method"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(method, pointer):
    document = example_job("agglomerate")
    document["method"] |= method

    with pytest.raises(InvalidSpec) as caught:
        parse_job_spec(document)
    assert [error.pointer for error in caught.value.errors] == [pointer]


def test_more_than_eight_teachers_are_refused():
    document = example_job("agglomerate")
    document["teachers"] *= 9

    with pytest.raises(InvalidSpec) as caught:
        parse_job_spec(document)
    assert [error.pointer for error in caught.value.errors] == ["/teachers"]


def test_a_teacher_whose_features_are_constant_is_named(make_harness, batch):
    harness = make_harness("agglomerate")
    outputs = harness.teachers[0](batch.images)

    with pytest.raises(SpecCannotRun, match="the teacher"):
        harness.method.prepare_training([[outputs.map(torch.zeros_like)]])
