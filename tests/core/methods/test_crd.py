"""Contrast: the official code's numbers, memories that move with the training, and draws of others."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from core.errors import InvalidSpec
from core.methods.crd import Memory
from core.models.align import TokenProjector

PLACES = torch.tensor([7, 2, 4])
PICKED = torch.tensor([[7, 0, 1, 2, 3, 4], [2, 9, 8, 7, 6, 5], [4, 3, 3, 0, 1, 9]])


def memory(values):
    made = Memory(10, 4, temperature=0.07, momentum=0.5)
    made.vectors.copy_(0.5 * values.view(10, 4))
    return made


@pytest.fixture
def official(filled):
    """Embeddings, projections and memories as the official code was given them."""
    torch.manual_seed(0)
    rows = torch.randn(3, 6).requires_grad_(), torch.randn(3, 9)
    projections = filled(TokenProjector(6, 4)), filled(TokenProjector(9, 4))
    angles = torch.arange(40).float()
    return rows, projections, memory(angles.sin()), memory(angles.cos())


def test_two_steps_give_the_values_of_the_official_code(official):
    (mine, guide), projections, of_student, of_teacher = official
    seen = []
    for _ in range(2):
        mine_BE, guide_BE = (F.normalize(p(x), dim=1) for p, x in zip(projections, (mine, guide), strict=True))
        (first, teacher_constant), (second, student_constant) = (
            of_teacher.loss(mine_BE, PICKED),
            of_student.loss(guide_BE, PICKED),
        )
        (slope,) = torch.autograd.grad(first + second, mine)
        seen += [(first + second).item(), slope.norm().item()]
        of_student.remember(PLACES, mine_BE.detach(), student_constant)
        of_teacher.remember(PLACES, guide_BE.detach(), teacher_constant)

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


def test_new_memories_hold_vectors_of_about_unit_length():
    vectors = Memory(2000, 32, temperature=0.07, momentum=0.5).vectors

    assert vectors.norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)
    assert vectors.mean().item() == pytest.approx(0, abs=0.01)


def step(made, batch):
    terms = made.terms(batch)
    sum(terms.values()).backward()
    made.method.after_step(made.student.module, made.room().info)
    return terms["contrast"].item()


def test_a_batch_enters_the_memories_when_its_step_is_done(lesson, batch):
    made = lesson("crd")
    first = made.method.student_memory.vectors.clone()

    made.terms(batch)
    before = made.method.student_memory.vectors.clone()
    step(made, batch)
    after = made.method.student_memory.vectors

    assert before.equal(first)
    assert [n for n in range(24) if not after[n].equal(first[n])] == batch.indices.tolist()
    torch.testing.assert_close(after[:6].norm(dim=1), torch.ones(6))
    assert made.method.classes.tolist() == batch.labels.tolist() + [-1] * 18


def test_the_constants_are_those_of_the_first_batch(lesson, batch):
    made = lesson("crd")
    constants = [made.method.student_memory.constant, made.method.teacher_memory.constant]
    assert [c.item() for c in constants] == [-1, -1]

    step(made, batch)
    first = [c.item() for c in constants]
    step(made, replace(batch, images=1 - batch.images))

    assert all(c > 0 for c in first)
    assert [c.item() for c in constants] == first


def test_all_that_a_later_step_needs_is_in_the_state(lesson, batch):
    made, other = lesson("crd"), lesson("crd")
    step(made, batch)
    other.method.load_state_dict(made.method.state_dict())

    assert step(made, batch) == step(other, batch)


def test_draws_are_all_other_samples_and_never_the_sample_itself(lesson):
    method = lesson("crd", num_samples=8).method
    places = torch.tensor([0, 3, 7])

    torch.manual_seed(0)
    drawn = torch.cat([method.draw(places, torch.zeros(3, dtype=torch.int64)) for _ in range(60)], dim=1)

    assert [sorted(set(row)) for row in drawn.tolist()] == [sorted(set(range(8)) - {p}) for p in places.tolist()]


@pytest.mark.parametrize(("other_classes", "fewest", "most"), [(True, 0, 0.01), (False, 0.15, 0.35)])
def test_samples_of_the_same_class_are_drawn_only_where_allowed(lesson, other_classes, fewest, most):
    method = lesson("crd", num_samples=80, other_classes=other_classes).method
    method.classes.copy_(torch.arange(80) % 4)
    places = torch.arange(80)

    torch.manual_seed(0)
    drawn = method.draw(places, places % 4)

    share = (drawn % 4 == (places % 4).unsqueeze(1)).float().mean().item()
    assert fewest <= share <= most


@pytest.mark.parametrize(("num_samples", "negatives"), [(24, 23), (16_385, 16_384), (20_000, 16_384)])
def test_negatives_are_the_papers_or_all_others(lesson, num_samples, negatives):
    assert lesson("crd", num_samples=num_samples, width=2).method.negatives == negatives


def test_more_negatives_than_there_are_others_are_refused(lesson):
    with pytest.raises(InvalidSpec, match="/method/negatives: 24 training samples have 23 others, not 24"):
        lesson("crd", negatives=24)


def test_a_single_sample_is_refused(lesson):
    with pytest.raises(InvalidSpec, match="there is only one"):
        lesson("crd", num_samples=1)
