"""Heads match TAO's and UNIC's official code on seeded inputs."""

import pytest
import torch

from core.models.projection import Ladder, ProjectionMlp
from tests.support.golden import draw, fill, fingerprint


def test_the_mlp_matches_the_official_code():
    torch.manual_seed(0)
    inputs = draw(3, 4, 6).requires_grad_()
    head = ProjectionMlp(6, 8, hidden_width=10, depth=1)
    fill(head)

    projected = head(inputs)
    loss = projected.square().mean()
    loss.backward()

    assert loss.item() == pytest.approx(0.18264759662554353, rel=1e-5)
    assert projected.sum().item() == pytest.approx(0.25379134134527637, rel=1e-4)
    assert fingerprint(projected) == pytest.approx(0.4416324854969351, rel=1e-4)
    assert inputs.grad.norm().item() == pytest.approx(0.0647298180015176, rel=1e-5)


def test_the_last_bias_starts_at_zero():
    assert not ProjectionMlp(6, 8, hidden_width=10, depth=0).last.bias.any()


def test_the_ladder_matches_the_official_code():
    torch.manual_seed(0)
    summaries, patches = [draw(2, 6) for _ in range(4)], [draw(2, 4, 6) for _ in range(4)]
    heads = [Ladder([6] * 3, width, hidden_width=4, last_hidden_width=9) for width in (5, 5, 7, 7)]
    fill(*heads)

    # The first of the four inputs is that of the first block, which no head reads.
    outputs = [head(levels[1:]) for head, levels in zip(heads, (summaries, patches) * 2, strict=True)]

    assert sum(output.square().mean().item() for output in outputs) == pytest.approx(0.23884679293960764, rel=1e-5)
    assert outputs[0][0].tolist() == pytest.approx(
        [0.10743814715886607, -0.06990588607696864, 0.11903759721452745, -0.028678904829507745, 0.21812464330702447],
        rel=1e-5,
    )
    assert outputs[3].sum().item() == pytest.approx(4.62195048856977, rel=1e-5)
    assert fingerprint(outputs[3]) == pytest.approx(-0.21490340679718617, rel=1e-4)
