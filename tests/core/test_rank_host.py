"""The process of another rank: trainings by order, with a store in memory and a replaced training."""

import os
import signal
import threading
import time

import pytest
import torch.distributed as dist

from core import rank_host
from core.errors import OutOfMemory, ProcessLost
from core.rank_host import serve_rank
from core.reporting import Interrupted
from core.train import rank_channel
from core.train.rank_channel import Outcome, RankStore, open_session
from core.train.rank_config import write_failure
from core.train.torchrun import RankPlace, TorchrunEnvironment

IDENTITY = {"machine": "node1"}
ORDER = {
    "config": {"ranks_dir": "", "spec": "", "root": "", "cache": "", "dataset": ""},
    "files": {},
}


def environment(rank):
    return TorchrunEnvironment(RankPlace(rank, 2, 0, 1), "node0", 29500, has_agent_store=True)


@pytest.fixture
def serve(monkeypatch):
    """Serve rank 1 here, with ``training`` in its processes; ``lead`` is rank 0, in a thread."""
    monkeypatch.setattr(rank_channel, "_PAUSE_POLL_SECONDS", 0.0)

    def make(training, lead):
        monkeypatch.setattr(rank_host, "run_rank", training)
        store = RankStore(dist.HashStore())

        def rank_zero():
            channel = open_session(store, environment(0), {"machine": "node0"})
            try:
                lead(channel)
            finally:
                channel.close(Outcome.FINISHED)

        thread = threading.Thread(target=rank_zero)
        thread.start()
        outcome = serve_rank(store, environment(1), IDENTITY)
        thread.join()
        return outcome

    return make


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def endless(config, place, _rendezvous, *, files):
    assert files == {}
    config.ready_path(place.rank).write_text(str(os.getpid()))
    time.sleep(600)


def test_trainings_run_by_order_and_are_ended_by_order(serve):
    counts = []

    def lead(channel):
        for _ in range(2):
            number = channel.start_training(ORDER)
            wait_for(lambda number=number: channel.are_ready(number))
            counts.append(len(channel.failures(number)))
            channel.end_training(number)

    assert serve(endless, lead) is Outcome.FINISHED
    assert counts == [0, 0]


def report(config, place, _rendezvous, *, files):
    write_failure(config, place.rank, OutOfMemory("too large"))
    return 70


def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("training", "status", "kind", "detail"),
    [
        (report, 70, OutOfMemory, "rank 1 of 2 on node1: too large"),
        (killed, -9, ProcessLost, "rank 1 of 2 on node1 was ended by signal 9"),
        (lambda *_, **__: 3, 3, ProcessLost, "rank 1 of 2 on node1 ended with status 3"),
    ],
)
def test_a_failed_training_is_reported_to_rank_zero(serve, training, status, kind, detail):
    failures = []

    def lead(channel):
        number = channel.start_training(ORDER)
        failures.append(wait_for(lambda: channel.failures(number)))

    serve(training, lead)
    [[reported, error]] = failures[0].values()
    assert (reported, type(error), error.detail) == (status, kind, detail)


def test_sigterm_asks_rank_zero_to_pause_and_the_training_goes_on(serve):
    seen = []

    def lead(channel):
        number = channel.start_training(ORDER)
        wait_for(lambda: channel.are_ready(number))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # by a scheduler, and by torchrun
        seen.append(wait_for(channel.is_pause_requested))
        seen.append(channel.failures(number))

    serve(endless, lead)
    assert seen == [True, {}]


def test_sigterm_before_rank_zero_replies_ends_the_process():
    store = RankStore(dist.HashStore())

    def stop():
        wait_for(lambda: store.get("hello/1"))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(Interrupted):
        serve_rank(store, environment(1), IDENTITY)
