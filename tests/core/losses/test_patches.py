"""Relations between tokens: literal sums, random tokens, and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.losses import hidden_relation, manifold, qkv_relation, relation_transfer
from tests.support.golden import draw

STEADY = settings(deadline=None, derandomize=True, max_examples=30)

B, N = 2, 3
PLACES = [(b, n) for b in range(B) for n in range(N)]


def pair():
    generator = torch.Generator().manual_seed(13)
    return torch.randn(B, N, 4, generator=generator), torch.randn(B, N, 6, generator=generator)


def qkv(seed, width):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, N, width, generator=generator) for _ in range(3))


def cosine(tokens, one, other):
    return torch.cosine_similarity(tokens[one], tokens[other], dim=0).item()


def mean_gap(student, teacher, pairs):
    return sum((cosine(student, *places) - cosine(teacher, *places)) ** 2 for places in pairs) / len(pairs)


def test_the_manifold_compares_cosines_in_an_image_across_images_and_of_all_tokens():
    student, teacher = pair()
    everywhere = [(one, other) for one in PLACES for other in PLACES]
    in_an_image = [(one, other) for one, other in everywhere if one[0] == other[0]]
    across_images = [(one, other) for one, other in everywhere if one[1] == other[1]]

    terms = manifold(student, teacher, num_random=1000)

    expected = [mean_gap(student, teacher, pairs) for pairs in (in_an_image, across_images, everywhere)]
    assert [term.item() for term in terms] == pytest.approx(expected, rel=1e-4)


def test_the_random_tokens_are_those_that_the_generator_draws():
    student, teacher = pair()
    order = torch.randperm(B * N, generator=torch.Generator().manual_seed(5)).tolist()
    drawn = [PLACES[place] for place in order[:3]]

    _, _, random = manifold(student, teacher, num_random=3, generator=torch.Generator().manual_seed(5))

    expected = mean_gap(student, teacher, [(one, other) for one in drawn for other in drawn])
    assert random.item() == pytest.approx(expected, rel=1e-4)


def test_an_explicit_generator_leaves_the_global_generator_unchanged():
    before = torch.get_rng_state()

    manifold(*pair(), num_random=3, generator=torch.Generator().manual_seed(5))

    assert torch.equal(torch.get_rng_state(), before)


def test_the_hidden_relation_is_the_manifold_of_an_image():
    torch.testing.assert_close(hidden_relation(*pair()), manifold(*pair(), num_random=1)[0])


@STEADY
@given(st.integers(0, 2**32), st.floats(0.01, 100))
def test_cosines_are_invariant_to_rotation_and_scale_of_the_features(seed, scale):
    student, teacher = pair()
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))[0]

    moved = manifold(scale * student @ turn, teacher, num_random=1000)

    torch.testing.assert_close(moved, manifold(student, teacher, num_random=1000), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("heads", [1, 2])
def test_qkv_relation_equals_the_literal_cross_entropy_of_nine_pairs(heads):
    student, teacher = qkv(1, 4), qkv(2, 6)

    def relation(parts, i, j, b, head, row):
        width = parts[0].shape[2] // heads
        of_head = slice(head * width, (head + 1) * width)
        products = [(parts[i][b, row, of_head] @ parts[j][b, n, of_head]).item() / math.sqrt(width) for n in range(N)]
        powers = [math.exp(product) for product in products]
        return [power / sum(powers) for power in powers]

    rows = [
        (i, j, b, h, n) for i in range(3) for j in range(3) for b in range(B) for h in range(heads) for n in range(N)
    ]
    total = 0.0
    for row in rows:
        pairs = zip(relation(student, *row), relation(teacher, *row), strict=True)
        total -= sum(t * math.log(s) for s, t in pairs)

    value = qkv_relation(student, teacher, relation_heads=heads)

    assert value.item() == pytest.approx(total / len(rows), rel=1e-5)


@STEADY
@given(st.integers(0, 2**32))
def test_qkv_relation_is_minimal_for_the_teacher_itself(seed):
    teacher = qkv(3, 4)

    assert qkv_relation(qkv(seed, 4), teacher) >= qkv_relation(teacher, teacher)


def test_all_pairs_of_q_k_and_v_are_compared():
    student = tuple(part.requires_grad_() for part in qkv(1, 4))

    qkv_relation(student, qkv(2, 4)).backward()

    assert all(part.grad.norm() > 0 for part in student)


@pytest.mark.parametrize("loss", [hidden_relation, lambda s, t: manifold(s, t, num_random=2)])
@pytest.mark.parametrize("teacher", [torch.zeros(B, N + 1, 4), torch.zeros(B + 1, N, 4), torch.zeros(B, N * 4)])
def test_different_numbers_of_tokens_are_rejected_and_never_broadcast(loss, teacher):
    with pytest.raises(ValueError, match="same B and N"):
        loss(torch.zeros(B, N, 4), teacher)


def test_relation_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="do not divide a width of 4"):
        qkv_relation(qkv(1, 4), qkv(2, 6), relation_heads=3)


def test_qkv_relation_needs_three_tensors():
    with pytest.raises(ValueError, match="q, k and v"):
        qkv_relation(qkv(1, 4)[:2], qkv(2, 4))


def test_a_manifold_without_random_tokens_is_rejected():
    with pytest.raises(ValueError, match="num_random"):
        manifold(*pair(), num_random=0)


def test_relation_transfer_matches_the_official_code_of_tinymim():
    torch.manual_seed(0)
    student, teacher = draw(4, 10, 24).requires_grad_(), draw(4, 10, 48, scale=1.5)

    terms = relation_transfer(student.chunk(3, dim=2), teacher.chunk(3, dim=2), heads=4)
    sum(terms).backward()

    assert [term.item() for term in terms] == pytest.approx([1.5347544, 1.1084862], rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(0.15129933, rel=1e-5)


def test_relation_transfer_needs_three_tensors_of_the_same_tokens():
    with pytest.raises(ValueError, match="needs q, k and v"):
        relation_transfer(qkv(1, 4)[:2], qkv(2, 4), heads=1)
    with pytest.raises(ValueError, match="3 relation heads do not divide a width of 4"):
        relation_transfer(qkv(1, 4), qkv(2, 6), heads=3)
