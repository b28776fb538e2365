"""Random draws depend on what they are for."""

import torch

from core.seeds import derive_seed, seed_generators, step_seed

CPU = torch.device("cpu")


def test_purposes_and_seeds_do_not_meet():
    seeds = {derive_seed(seed, purpose) for seed in range(50) for purpose in ("student", "method", "steps")}

    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_stay_what_they_were():
    # A change here changes the bits of every student, and the recipe of every teacher that is kept.
    assert (derive_seed(0, "student"), step_seed(0, 0)) == (4410066293441688248, 8147104208329303767)


def test_steps_draw_differently_and_again_the_same():
    def draw(step):
        seed_generators(step_seed(7, step), CPU)
        return torch.rand(3)

    assert draw(1).equal(draw(1))
    assert not draw(1).equal(draw(2))


def test_seeding_is_what_torch_does_on_the_cpu():
    seed_generators(99, CPU)
    ours = torch.rand(4)
    torch.manual_seed(99)

    assert ours.equal(torch.rand(4))
