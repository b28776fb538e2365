"""Timeouts of PostgreSQL connections; the next transaction gets a working connection."""

import time

import pytest
from sqlalchemy import text

from core.store import engine as engine_module
from core.store.db import Database, DatabaseUnavailable, make_engine

TIMEOUT_SECONDS = 0.5


@pytest.fixture
def make_database(pg_migrated):
    databases = []

    def make(url=pg_migrated, seconds=TIMEOUT_SECONDS):
        databases.append(Database(make_engine(url, statement_timeout_seconds=seconds)))
        return databases[-1]

    yield make
    for database in databases:
        database.dispose()


def backend(session):
    return session.execute(text("SELECT pg_backend_pid()")).scalar_one()


def sleep(session, seconds=30):
    session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


def assert_times_out(database):
    start = time.monotonic()
    with pytest.raises(DatabaseUnavailable), database.read() as session:
        sleep(session)

    assert time.monotonic() - start < 10


def test_server_cancels_a_slow_statement(make_database):
    short_timeout = make_database()
    with short_timeout.read() as session:
        before = backend(session)

    assert_times_out(short_timeout)
    with short_timeout.read() as session:
        assert backend(session) == before  # the connection is still open


def test_connection_to_a_silent_server_is_closed(make_database, monkeypatch):
    monkeypatch.setattr(engine_module, "GRACE_SECONDS", 0.0)
    short_timeout = make_database()
    with short_timeout.read() as session:
        session.execute(text("SET SESSION statement_timeout = 0"))  # disables the server's own timeout
        session.commit()
        before = backend(session)

    assert_times_out(short_timeout)
    with short_timeout.read() as session:
        assert backend(session) != before


def test_lock_wait_times_out(make_database):
    long_timeout, short_timeout = make_database(seconds=60), make_database()
    lock = text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
    with long_timeout.write() as session:
        session.execute(lock)
        with pytest.raises(DatabaseUnavailable), short_timeout.write() as waiting:
            waiting.execute(lock)


def test_idle_transaction_is_ended_and_releases_its_locks(make_database):
    idle, other = make_database(), make_database(seconds=60)
    lock = text("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")

    def idle_with_a_lock():
        with idle.write() as session:
            session.execute(lock)
            with other.write() as waiting:
                waiting.execute(lock)  # returns once the idle session has been ended
            session.execute(lock)

    with pytest.raises(DatabaseUnavailable):
        idle_with_a_lock()


def test_zero_disables_the_timeout(make_database):
    long_timeout = make_database(seconds=0)
    with long_timeout.read() as session:
        sleep(session, 0.01)
        shown = session.execute(text("SHOW statement_timeout")).scalar_one()

    assert shown == "0"


def test_options_in_the_url_take_precedence(make_database, pg_migrated):
    database = make_database(f"{pg_migrated}&options=-c%20statement_timeout%3D7s%20-c%20work_mem%3D8MB")
    with database.read() as session:
        shown = [
            session.execute(text(f"SHOW {name}")).scalar_one()
            for name in ("statement_timeout", "work_mem", "idle_in_transaction_session_timeout")
        ]

    assert shown == ["7s", "8MB", "500ms"]
