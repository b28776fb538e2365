"""Seeds depend on their purpose."""

import torch

from core.seeds import derive_seed, seed_generators, step_seed

CPU = torch.device("cpu")


def test_purposes_and_seeds_do_not_collide():
    seeds = {derive_seed(seed, purpose) for seed in range(50) for purpose in ("student", "method", "steps")}

    assert len(seeds) == 150
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_do_not_change_between_versions():
    # A change here changes the bits of every student and of every teacher that a job trains.
    assert (derive_seed(0, "student"), step_seed(0, 0)) == (4410066293441688248, 8147104208329303767)


def test_each_step_has_its_own_reproducible_draws():
    def draw(step):
        seed_generators(step_seed(7, step), CPU)
        return torch.rand(3)

    assert draw(1).equal(draw(1))
    assert not draw(1).equal(draw(2))


def test_seeding_a_cpu_equals_manual_seed():
    seed_generators(99, CPU)
    drawn = torch.rand(4)
    torch.manual_seed(99)

    assert drawn.equal(torch.rand(4))
