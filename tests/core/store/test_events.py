"""Events of a job: order, pages, and no gaps with concurrent writers."""

import contextlib
import threading

from core.store import events, jobs
from core.store.jobs import LeaseToken


def seqs(world, job_id):
    return [event.seq for event in world.read(events.list_events, world.project, job_id).items]


def test_event_has_its_fields(world):
    lease = world.start_job()
    world.write(events.append, lease, "note", "hello\x00", level="warning", data={"a": [1, None]})

    last = world.read(events.list_events, world.project, lease.job_id).items[-1]

    assert (last.type, last.message, last.level, last.data) == ("note", "hello\ufffd", "warning", {"a": [1, None]})
    assert (last.attempt, last.id[:4], last.project_id) == (1, "evt_", world.project)
    assert world.read(events.find_seq, world.project, lease.job_id, last.id) == last.seq
    assert world.read(events.find_seq, world.project, lease.job_id, "evt_x") is None


def test_concurrent_writers_leave_no_gap_in_seq(world):
    leases = [world.start_job() for _ in range(2)]
    done, seen = threading.Event(), []

    def write(lease):
        for k in range(15):
            world.write(events.append, lease, "note", str(k))

    def pause_and_resume():
        for _ in range(5):
            world.write(jobs.pause, world.project, leases[0].job_id)
            world.write(jobs.resume, world.project, leases[0].job_id)

    def read():
        while not done.is_set():
            seen.append(seqs(world, leases[0].job_id))

    threads = [threading.Thread(target=write, args=(lease,)) for lease in leases for _ in range(2)]
    threads.append(threading.Thread(target=pause_and_resume))
    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()

    assert len(seqs(world, leases[0].job_id)) == 2 + 30 + 10
    for seq_list in (*seen, *(seqs(world, lease.job_id) for lease in leases)):
        assert seq_list == list(range(1, len(seq_list) + 1))


def test_rollback_removes_the_event(world):
    lease = world.start_job()

    def write_and_fail(session):
        events.append(session, lease, "note", "lost")
        raise KeyError

    with contextlib.suppress(KeyError):
        world.write(write_and_fail)
    world.write(events.append, lease, "note", "stored")

    assert seqs(world, lease.job_id) == [1, 2, 3]


def test_pages_ascend(world):
    lease = world.start_job()
    for k in range(4):
        world.write(events.append, lease, "note", str(k))

    first = world.read(events.list_events, world.project, lease.job_id, limit=4)
    rest = world.read(events.list_events, world.project, lease.job_id, after_seq=4, limit=4)

    assert ([e.seq for e in first.items], first.has_more) == ([1, 2, 3, 4], True)
    assert ([e.seq for e in rest.items], rest.has_more) == ([5, 6], False)


def test_events_of_another_project_are_hidden(world, other_project):
    job_id = world.job()

    assert world.read(events.list_events, other_project, job_id).items == []


def test_seq_continues_in_a_second_attempt(world):
    lease = world.start_job()
    world.write(jobs.release, lease)
    world.write(events.append, LeaseToken.from_job(world.claim()), "note", "again")

    log = world.read(events.list_events, world.project, lease.job_id).items
    assert [(e.seq, e.attempt) for e in log] == [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]
