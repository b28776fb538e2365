"""What PostgreSQL does not answer in time is given up; the next unit of work has a connection again."""

import time

import pytest
from sqlalchemy import text

from core.store.db import Database, DatabaseUnavailable, make_engine

LIMIT = 0.5  # seconds


@pytest.fixture
def make_impatient(pg_migrated):
    made = []

    def make(url=pg_migrated, seconds=LIMIT):
        made.append(Database(make_engine(url, statement_timeout_seconds=seconds)))
        return made[-1]

    yield make
    for database in made:
        database.dispose()


def backend(session):
    return session.execute(text("SELECT pg_backend_pid()")).scalar_one()


def sleep(session, seconds=30):
    session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


def assert_soon_given_up(database):
    began = time.monotonic()
    with pytest.raises(DatabaseUnavailable), database.read() as session:
        sleep(session)

    assert time.monotonic() - began < 10


def test_a_statement_that_takes_too_long_is_broken_off_by_the_server(make_impatient):
    impatient = make_impatient()
    with impatient.read() as session:
        before = backend(session)

    assert_soon_given_up(impatient)
    with impatient.read() as session:
        assert backend(session) == before  # the connection lives on


def test_a_server_that_says_nothing_is_left(make_impatient, monkeypatch):
    monkeypatch.setattr("core.store.engine.GRACE_SECONDS", 0.0)
    impatient = make_impatient()
    with impatient.read() as session:
        session.execute(text("SET SESSION statement_timeout = 0"))  # it will not break off by itself
        session.commit()
        before = backend(session)

    assert_soon_given_up(impatient)
    with impatient.read() as session:
        assert backend(session) != before


def test_who_waits_too_long_for_a_lock_is_told(make_impatient):
    patient, impatient = make_impatient(seconds=60), make_impatient()
    lock = text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    with patient.write() as session:
        session.execute(lock)
        with pytest.raises(DatabaseUnavailable), impatient.write() as waiting:
            waiting.execute(lock)


def test_a_transaction_of_a_process_that_does_nothing_gives_its_locks_back(make_impatient):
    stopped, other = make_impatient(), make_impatient(seconds=60)
    lock = text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")

    def do_nothing_under_a_lock():
        with stopped.write() as session:
            session.execute(lock)
            with other.write() as waiting:
                waiting.execute(lock)  # returns once the other's session was ended
            session.execute(lock)

    with pytest.raises(DatabaseUnavailable):
        do_nothing_under_a_lock()


def test_without_a_limit_all_is_waited_for(make_impatient):
    patient = make_impatient(seconds=0)
    with patient.read() as session:
        sleep(session, 0.01)
        shown = session.execute(text("SHOW statement_timeout")).scalar_one()

    assert shown == "0"


def test_the_users_own_options_win(make_impatient, pg_migrated):
    database = make_impatient(f"{pg_migrated}&options=-c%20statement_timeout%3D7s%20-c%20work_mem%3D8MB")
    with database.read() as session:
        shown = [
            session.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("statement_timeout", "work_mem", "idle_in_transaction_session_timeout")
        ]

    assert shown == ["7s", "8MB", "500ms"]
