"""A rank's part of a training."""

from dataclasses import replace

import pytest

from core.methods import Outputs
from core.train.parts import InTurn, parted
from core.train.ranks import ALONE, Ranks


class Meeting(Ranks):
    """Ranks whose meetings are written down instead of held."""

    def after_first(self, work):
        met.append(self.rank)
        work()


met = []


class Asked:
    def __init__(self):
        self.readied = []

    def ready(self, step):
        self.readied.append(step)

    def of(self, batch):
        return [Outputs(batch.images)]


def test_alone_nothing_is_parted(task, training):
    whole = task(training())

    assert parted(whole, ALONE) is whole


def test_parts_together_are_the_batch(task, training):
    whole = task(training(batch_size=7))
    parts = [parted(whole, Ranks(rank, 3)).feed for rank in range(3)]

    for step in (0, 5, 11):
        batch = whole.feed.batch(step)
        shown = [part.batch(step) for part in parts]
        assert sorted(len(part.labels) for part in shown) in ([2, 2, 2], [2, 2, 3])
        assert [index for part in shown for index in part.indices.tolist()] == batch.indices.tolist()
        assert all(
            image.equal(whole_image)
            for image, whole_image in zip((i for part in shown for i in part.images), batch.images, strict=True)
        )
        assert sum(part.share(step) for part in parts) == pytest.approx(1)
        assert parts[0].share(step) == len(shown[0].labels) / len(batch.labels)


def test_the_ranks_meet_once_a_view(task, training):
    met.clear()
    asked = Asked()
    whole = replace(task(training(views=2)), asked=asked)
    turn = InTurn(asked, Meeting(1, 2), whole.feed)

    for step in range(20):
        turn.ready(step)

    assert asked.readied == [0, 5, 10, 15]
    assert met == [1] * 4


def test_answers_are_those_of_the_part(task, training):
    part = parted(replace(task(training()), asked=Asked()), Ranks(1, 2))
    batch = part.feed.batch(0)

    assert part.asked.of(batch)[0].logits.equal(batch.images)
    assert len(batch.labels) == 4
