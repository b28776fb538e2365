"""Contrastive representation distillation: official values, memory banks and negatives."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods.crd import MemoryBank
from core.models.align import TokenProjector

INDICES = torch.tensor([7, 2, 4])
DRAWN = torch.tensor([[7, 0, 1, 2, 3, 4], [2, 9, 8, 7, 6, 5], [4, 3, 3, 0, 1, 9]])


def memory(values):
    bank = MemoryBank(10, 4, temperature=0.07, momentum=0.5)
    bank.vectors.copy_(0.5 * values.view(10, 4))
    return bank


@pytest.fixture
def official(filled):
    """Embeddings, projections and memory banks that the official values were computed with."""
    torch.manual_seed(0)
    rows = torch.randn(3, 6).requires_grad_(), torch.randn(3, 9)
    projections = filled(TokenProjector(6, 4)), filled(TokenProjector(9, 4))
    angles = torch.arange(40).float()
    return rows, projections, memory(angles.sin()), memory(angles.cos())


def test_two_steps_match_the_official_code(official):
    (student, teacher), projections, of_student, of_teacher = official
    seen = []
    for _ in range(2):
        student_BE, teacher_BE = (
            F.normalize(p(x), dim=1) for p, x in zip(projections, (student, teacher), strict=True)
        )
        (first, teacher_constant), (second, student_constant) = (
            of_teacher.loss(student_BE, DRAWN),
            of_student.loss(teacher_BE, DRAWN),
        )
        (gradient,) = torch.autograd.grad(first + second, student)
        seen += [(first + second).item(), gradient.norm().item()]
        of_student.update(INDICES, student_BE.detach(), student_constant)
        of_teacher.update(INDICES, teacher_BE.detach(), teacher_constant)

    assert seen == pytest.approx(
        [21.837942123413086, 2.871152639389038, 16.75484848022461, 1.940053939819336], rel=1e-5
    )
    assert of_teacher.constant.item() == pytest.approx(17798.83203125, rel=1e-5)
    assert of_student.constant.item() == pytest.approx(265.9438171386719, rel=1e-5)
    assert of_student.vectors[7].tolist() == pytest.approx(
        [0.5788014531135559, 0.484170138835907, 0.36563241481781006, 0.5448678731918335], rel=1e-4
    )
    assert of_teacher.vectors[4].tolist() == pytest.approx(
        [0.11161074042320251, -0.3104866147041321, 0.7891866564750671, -0.51800137758255], rel=1e-4
    )


def test_new_memory_banks_hold_vectors_of_about_unit_length():
    vectors = MemoryBank(2000, 32, temperature=0.07, momentum=0.5).vectors

    assert vectors.norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)
    assert vectors.mean().item() == pytest.approx(0, abs=0.01)


def step(harness, batch):
    terms = harness.terms(batch)
    sum(terms.values()).backward()
    harness.method.after_step(harness.student.module, harness.step_context().info)
    return terms["contrast"].item()


def test_a_batch_enters_the_memory_banks_after_its_step(make_harness, batch):
    harness = make_harness("crd")
    first = harness.method.student_memory.vectors.clone()

    harness.terms(batch)
    before = harness.method.student_memory.vectors.clone()
    step(harness, batch)
    after = harness.method.student_memory.vectors

    assert before.equal(first)
    assert [n for n in range(24) if not after[n].equal(first[n])] == batch.indices.tolist()
    torch.testing.assert_close(after[:6].norm(dim=1), torch.ones(6))
    assert harness.method.classes.tolist() == batch.labels.tolist() + [-1] * 18


def test_constants_are_estimated_on_the_first_batch(make_harness, batch):
    harness = make_harness("crd")
    constants = [harness.method.student_memory.constant, harness.method.teacher_memory.constant]
    assert [c.item() for c in constants] == [-1, -1]

    step(harness, batch)
    first = [c.item() for c in constants]
    step(harness, replace(batch, images=1 - batch.images))

    assert all(c > 0 for c in first)
    assert [c.item() for c in constants] == first


def test_the_state_dict_is_sufficient_to_resume(make_harness, batch):
    harness, other = make_harness("crd"), make_harness("crd")
    step(harness, batch)
    other.method.load_state_dict(harness.method.state_dict())

    assert step(harness, batch) == step(other, batch)


def test_negatives_are_drawn_from_all_other_samples(make_harness):
    method = make_harness("crd", num_samples=8).method
    indices = torch.tensor([0, 3, 7])

    torch.manual_seed(0)
    drawn = torch.cat([method.draw(indices, torch.zeros(3, dtype=torch.int64)) for _ in range(60)], dim=1)

    assert [sorted(set(row)) for row in drawn.tolist()] == [sorted(set(range(8)) - {p}) for p in indices.tolist()]


@pytest.mark.parametrize(("other_classes", "fewest", "most"), [(True, 0, 0.01), (False, 0.15, 0.35)])
def test_samples_of_the_same_class_are_drawn_only_if_allowed(make_harness, other_classes, fewest, most):
    method = make_harness("crd", num_samples=80, other_classes=other_classes).method
    method.classes.copy_(torch.arange(80) % 4)
    indices = torch.arange(80)

    torch.manual_seed(0)
    drawn = method.draw(indices, indices % 4)

    share = (drawn % 4 == (indices % 4).unsqueeze(1)).float().mean().item()
    assert fewest <= share <= most


@pytest.mark.parametrize(("num_samples", "negatives"), [(24, 23), (16_385, 16_384), (20_000, 16_384)])
def test_the_number_of_negatives_is_the_papers_or_all_other_samples(make_harness, num_samples, negatives):
    assert make_harness("crd", num_samples=num_samples, width=2).method.num_negatives == negatives


def test_more_negatives_than_other_samples_are_rejected(make_harness):
    with pytest.raises(
        InvalidSpec, match="/method/negatives: with 24 training samples at most 23 negatives are possible, not 24"
    ):
        make_harness("crd", negatives=24)


def test_a_single_sample_is_rejected(make_harness):
    with pytest.raises(InvalidSpec, match="there is only one"):
        make_harness("crd", num_samples=1)


@pytest.mark.parametrize(("num_negatives", "start"), [(200, 6.3), (2000, 8.6)])
def test_the_loss_starts_at_one_plus_the_logarithm_of_the_negatives(num_negatives, start):
    """So the paper's weight needs no conversion for fewer samples."""
    torch.manual_seed(0)
    num_samples = num_negatives + 1
    bank = MemoryBank(num_samples, 32, temperature=1.0, momentum=0.5)
    queries = F.normalize(torch.randn(8, 32), dim=1)

    loss, _ = bank.loss(queries, torch.stack([torch.randperm(num_samples) for _ in range(8)]))

    assert loss.item() == pytest.approx(start, abs=0.3)
