"""The network that generates maps."""

import torch

from core.models.generator import map_generator


def test_a_map_keeps_its_shape_and_each_place_sees_its_neighbours():
    picture = torch.randn(1, 3, 7, 7).requires_grad_()

    made = map_generator(3)(picture)
    (slope,) = torch.autograd.grad(made[0, :, 3, 3].sum(), picture)

    seen = slope.abs().sum(dim=(0, 1)) > 0
    assert made.shape == picture.shape
    assert not seen[0].any()
    assert not seen[6].any()
    assert seen[1:6, 1:6].any(dim=0).all()
