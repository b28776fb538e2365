"""A job's log has no gap, whoever writes at the same time."""

import contextlib
import threading

from core.store import events, jobs
from core.store.jobs import LeaseToken


def seqs(world, job_id):
    return [event.seq for event in world.read(events.list_events, world.project, job_id).items]


def test_an_event_keeps_what_was_said(world):
    lease = world.start_job()
    world.write(events.append, lease, "note", "hello\x00", level="warning", data={"a": [1, None]})

    last = world.read(events.list_events, world.project, lease.job_id).items[-1]

    assert (last.type, last.message, last.level, last.data) == ("note", "hello\ufffd", "warning", {"a": [1, None]})
    assert (last.attempt, last.id[:4], last.project_id) == (1, "evt_", world.project)
    assert world.read(events.find_seq, world.project, lease.job_id, last.id) == last.seq
    assert world.read(events.find_seq, world.project, lease.job_id, "evt_x") is None


def test_concurrent_writers_leave_no_gap_and_readers_never_see_one(world):
    attempts = [world.start_job() for _ in range(2)]
    done, seen = threading.Event(), []

    def write(lease):
        for k in range(15):
            world.write(events.append, lease, "note", str(k))

    def ask():
        for _ in range(5):
            world.write(jobs.pause, world.project, attempts[0].job_id)
            world.write(jobs.resume, world.project, attempts[0].job_id)

    def read():
        while not done.is_set():
            seen.append(seqs(world, attempts[0].job_id))

    threads = [threading.Thread(target=write, args=(lease,)) for lease in attempts for _ in range(2)]
    threads.append(threading.Thread(target=ask))
    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()

    assert len(seqs(world, attempts[0].job_id)) == 2 + 30 + 10
    for found in (*seen, *(seqs(world, lease.job_id) for lease in attempts)):
        assert found == list(range(1, len(found) + 1))


def test_a_unit_of_work_that_fails_takes_its_event_with_it(world):
    lease = world.start_job()

    def write_and_fail(session):
        events.append(session, lease, "note", "lost")
        raise KeyError

    with contextlib.suppress(KeyError):
        world.write(write_and_fail)
    world.write(events.append, lease, "note", "kept")

    assert seqs(world, lease.job_id) == [1, 2, 3]


def test_pages_go_upwards(world):
    lease = world.start_job()
    for k in range(4):
        world.write(events.append, lease, "note", str(k))

    first = world.read(events.list_events, world.project, lease.job_id, limit=4)
    rest = world.read(events.list_events, world.project, lease.job_id, after_seq=4, limit=4)

    assert ([e.seq for e in first.items], first.has_more) == ([1, 2, 3, 4], True)
    assert ([e.seq for e in rest.items], rest.has_more) == ([5, 6], False)


def test_somebody_elses_log_is_empty(world, other_project):
    job_id = world.job()

    assert world.read(events.list_events, other_project, job_id).items == []


def test_the_log_of_a_second_attempt_goes_on_counting(world):
    lease = world.start_job()
    world.write(jobs.release, lease)
    world.write(events.append, LeaseToken.from_job(world.claim()), "note", "again")

    log = world.read(events.list_events, world.project, lease.job_id).items
    assert [(e.seq, e.attempt) for e in log] == [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]
