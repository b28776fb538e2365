"""One rank's part of a training setup."""

from dataclasses import replace

import pytest

from core.methods import Outputs
from core.train.data_parallel import RankZeroFirst, shard_setup
from core.train.process_group import SINGLE_PROCESS, ProcessGroup


class RecordingProcessGroup(ProcessGroup):
    """Process group that records barriers instead of waiting for other ranks."""

    def rank_zero_first(self, work):
        barriers.append(self.rank)
        work()


barriers = []


class RecordingSource:
    """Teacher output source that records loaded steps, and returns the images as outputs."""

    def __init__(self):
        self.loaded = []

    def load_step(self, step):
        self.loaded.append(step)

    def for_batch(self, batch):
        return [Outputs(batch.images)]


def test_a_single_process_keeps_the_setup(make_setup, training):
    setup = make_setup(training())

    assert shard_setup(setup, SINGLE_PROCESS) is setup


def test_shards_add_up_to_the_batch(make_setup, training):
    setup = make_setup(training(batch_size=7))
    shards = [shard_setup(setup, ProcessGroup(rank, 3)).loader for rank in range(3)]

    for step in (0, 5, 11):
        batch = setup.loader.batch(step)
        parts = [shard.batch(step) for shard in shards]
        assert sorted(len(part.labels) for part in parts) in ([2, 2, 2], [2, 2, 3])
        assert [index for part in parts for index in part.indices.tolist()] == batch.indices.tolist()
        assert all(
            image.equal(expected)
            for image, expected in zip((i for part in parts for i in part.images), batch.images, strict=True)
        )
        assert sum(shard.batch_fraction(step) for shard in shards) == pytest.approx(1)
        assert shards[0].batch_fraction(step) == len(parts[0].labels) / len(batch.labels)


def test_ranks_synchronize_once_per_view(make_setup, training):
    barriers.clear()
    source = RecordingSource()
    loader = make_setup(training(views=2)).loader
    rank_zero_first = RankZeroFirst(source, RecordingProcessGroup(1, 2), loader)

    for step in range(20):
        rank_zero_first.load_step(step)

    assert source.loaded == [0, 5, 10, 15]
    assert barriers == [1] * 4


def test_outputs_are_those_of_the_rank_s_part(make_setup, training):
    setup = replace(make_setup(training()), teacher_outputs=RecordingSource())
    shard = shard_setup(setup, ProcessGroup(1, 2))
    batch = shard.loader.batch(0)

    assert shard.teacher_outputs.for_batch(batch)[0].logits.equal(batch.images)
    assert len(batch.labels) == 4
