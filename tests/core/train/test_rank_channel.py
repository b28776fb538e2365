"""Messages between the ranks, through a store in memory."""

import threading
from contextlib import contextmanager

import pytest
import torch.distributed as dist

from core.errors import InvalidRequest, OutOfMemory, ProcessLost
from core.train import rank_channel
from core.train.rank_channel import Outcome, RankStore, join_session, open_session
from core.train.remote_ranks import RemoteRanks
from core.train.torchrun import RankPlace, TorchrunEnvironment

IDENTITY = {"machine": "node0", "torch": "2.14", "the SHA-256 of the spec": "ab"}


def environment(rank, world_size=3):
    return TorchrunEnvironment(RankPlace(rank, world_size, 0, 1), "node0", 29500, has_agent_store=True)


def no_poll():
    pass


@pytest.fixture
def store():
    return RankStore(dist.HashStore())


@contextmanager
def joining(store, rank, results, **changes):
    """Join as another rank in a thread."""

    def join():
        try:
            results[rank] = join_session(store, environment(rank), {**IDENTITY, **changes}, poll=no_poll)
        except InvalidRequest as error:
            results[rank] = error

    thread = threading.Thread(target=join)
    thread.start()
    yield
    thread.join()


@pytest.fixture
def channels(store):
    """Channels of three ranks in one session."""
    results = {}
    with joining(store, 1, results, machine="node1"), joining(store, 2, results, machine="node2"):
        results[0] = open_session(store, environment(0), IDENTITY)
    return results


def test_ranks_of_an_earlier_round_are_not_mixed_up(store, channels):
    """The store still has the greeting of the earlier processes."""
    results = {}
    with joining(store, 1, results), joining(store, 2, results):
        again = open_session(store, environment(0), IDENTITY)
    again.start_training({"attempt": 2})

    assert results[1].order(0) == {"attempt": 2}
    assert channels[1].order(0) is None


def test_another_version_is_reported_in_both_processes(store):
    results = {}
    with (
        joining(store, 1, results, machine="node1", torch="2.13"),
        joining(store, 2, results, machine="node2"),
        pytest.raises(InvalidRequest, match=r"rank 1 on node1 has torch '2\.13', and rank 0 on node0 has '2\.14'"),
    ):
        open_session(store, environment(0), IDENTITY)

    assert "rank 1 on node1 has torch '2.13'" in results[1].detail
    assert results[2].machine == "node2"


def test_another_spec_is_reported(store):
    results = {}
    changes = {"machine": "node2", "the SHA-256 of the spec": "cd"}
    with (
        joining(store, 1, results),
        joining(store, 2, results, **changes),
        pytest.raises(InvalidRequest, match="rank 2 on node2 has the SHA-256 of the spec 'cd'"),
    ):
        open_session(store, environment(0), IDENTITY)


def test_ranks_that_do_not_join_are_named(store, monkeypatch):
    monkeypatch.setattr(rank_channel, "_JOIN_SECONDS", 0.1)

    with pytest.raises(ProcessLost, match=r"ranks \[1, 2\] have not joined"):
        open_session(store, environment(0), IDENTITY)
    with pytest.raises(ProcessLost, match="rank 0 has not replied"):
        join_session(store, environment(1), IDENTITY, poll=no_poll)


def test_a_training_is_ordered_and_ended(channels):
    number = channels[0].start_training({"config": 1})

    assert channels[1].order(number) == channels[2].order(number) == {"config": 1}
    channels[1].report_ready(number)
    assert not channels[0].are_ready(number)
    channels[2].report_ready(number)
    assert channels[0].are_ready(number)
    assert not channels[1].is_ended(number)
    channels[0].end_training(number)
    assert channels[1].is_ended(number)
    assert channels[0].start_training({"config": 2}) == number + 1
    assert channels[1].order(number + 1) == {"config": 2}


def test_a_pause_of_any_machine_reaches_rank_zero(channels, monkeypatch):
    monkeypatch.setattr(rank_channel, "_PAUSE_POLL_SECONDS", 0.0)

    assert not channels[0].is_pause_requested()
    channels[2].request_pause()
    assert channels[0].is_pause_requested()


def test_rank_zero_waits_until_the_others_have_read_the_outcome(channels, monkeypatch):
    monkeypatch.setattr(rank_channel, "_LEAVE_SECONDS", 5.0)
    leaving = [threading.Thread(target=channels[rank].leave) for rank in (1, 2)]
    closing = threading.Thread(target=channels[0].close, args=(Outcome.FINISHED,))
    closing.start()
    for thread in leaving:
        thread.start()
    closing.join()

    assert channels[1].outcome() is Outcome.FINISHED
    assert channels[1].is_ended(0)


class Config:
    """Stands for a configuration without files."""

    def to_json(self):
        return {}

    def file_digests(self):
        return {}


def test_the_first_failure_is_the_cause_unless_a_rank_was_killed(channels):
    first = RemoteRanks(Config(), channels[0])
    assert first.failed() == {}
    channels[2].report_failure(0, 70, OutOfMemory("rank 2 is too large"))
    channels[1].report_failure(0, 70, ProcessLost("a consequence"))
    first.end()
    second = RemoteRanks(Config(), channels[0])
    channels[1].report_failure(1, 70, ProcessLost("a consequence"))
    channels[2].report_failure(1, -9, ProcessLost("rank 2 was ended by signal 9"))

    assert first.failed() == {1: 70, 2: 70}
    assert isinstance(first.find_failure(0), OutOfMemory)
    assert second.find_failure(0).detail == "rank 2 was ended by signal 9"


def test_a_lost_store_is_a_lost_process():
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = RankStore(dist.TCPStore("127.0.0.1", server.port, is_master=False, wait_for_workers=False))
    del server

    with pytest.raises(ProcessLost, match="torchrun's store"):
        client.get("key")
