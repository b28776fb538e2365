"""A rank's part of a training."""

from dataclasses import replace

import pytest

from core.methods import Outputs
from core.train.data_parallel import RankZeroFirst, shard_setup
from core.train.process_group import SINGLE_PROCESS, ProcessGroup


class Meeting(ProcessGroup):
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

    assert shard_setup(whole, SINGLE_PROCESS) is whole


def test_parts_together_are_the_batch(task, training):
    whole = task(training(batch_size=7))
    parts = [shard_setup(whole, ProcessGroup(rank, 3)).loader for rank in range(3)]

    for step in (0, 5, 11):
        batch = whole.feed.batch(step)
        shown = [part.batch(step) for part in parts]
        assert sorted(len(part.labels) for part in shown) in ([2, 2, 2], [2, 2, 3])
        assert [index for part in shown for index in part.indices.tolist()] == batch.indices.tolist()
        assert all(
            image.equal(whole_image)
            for image, whole_image in zip((i for part in shown for i in part.images), batch.images, strict=True)
        )
        assert sum(part.batch_fraction(step) for part in parts) == pytest.approx(1)
        assert parts[0].batch_fraction(step) == len(shown[0].labels) / len(batch.labels)


def test_the_ranks_meet_once_a_view(task, training):
    met.clear()
    asked = Asked()
    whole = replace(task(training(views=2)), asked=asked)
    turn = RankZeroFirst(asked, Meeting(1, 2), whole.feed)

    for step in range(20):
        turn.load_step(step)

    assert asked.readied == [0, 5, 10, 15]
    assert met == [1] * 4


def test_answers_are_those_of_the_part(task, training):
    part = shard_setup(replace(task(training()), asked=Asked()), ProcessGroup(1, 2))
    batch = part.loader.batch(0)

    assert part.teacher_outputs.for_batch(batch)[0].logits.equal(batch.images)
    assert len(batch.labels) == 4
