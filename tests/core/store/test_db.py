"""Transactions, types and connections of the database."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, StatementError

from core.errors import Unavailable
from core.store import projects
from core.store.db import Database, DatabaseUnavailable, make_engine, utc_now
from core.store.project_tables import Project


def test_committed_rows_are_read(world):
    project = world.write(projects.create, "other")

    assert [p.name for p in world.read(projects.list_projects)] == ["main", "other"]
    assert project.name == "other"  # readable after its transaction


def test_exception_rolls_back_the_transaction(world):
    def write_and_fail(session):
        projects.create(session, "other")
        raise KeyError

    with pytest.raises(KeyError):
        world.write(write_and_fail)

    assert len(world.read(projects.list_projects)) == 1


def test_read_transaction_cannot_write(world):
    with pytest.raises((DBAPIError, DatabaseUnavailable)), world.db.read() as session:
        projects.create(session, "other")

    world.write(projects.create, "another")  # the same connection can write again
    assert [p.name for p in world.read(projects.list_projects)] == ["main", "another"]


def test_concurrent_read_modify_write_loses_no_update(world):
    """A deferred SQLite transaction, or a missing row lock, would lose updates."""

    def add():
        for _ in range(20):
            with world.db.write() as session:
                project = session.get(Project, world.project, with_for_update=True)
                project.name = str(int(project.name) + 1)

    with world.db.write() as session:
        session.get(Project, world.project).name = "0"
    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with world.db.read() as session:
        assert session.get(Project, world.project).name == "80"


def test_timestamps_are_returned_in_utc(db):
    time = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    with db.write() as session:
        session.add(Project(id="prj_1", name="p", created_at=time))
    with db.read() as session:
        created_at = session.get(Project, "prj_1").created_at

    assert created_at == time
    assert created_at.tzinfo is UTC


def test_naive_timestamp_is_refused(db):
    naive = datetime(2026, 1, 2)  # noqa: DTZ001

    with pytest.raises(StatementError, match="naive"), db.write() as session:
        session.add(Project(id="prj_1", name="p", created_at=naive))


def test_unstorable_characters_are_replaced(world):
    project = world.write(projects.create, "a\x00b\ud800c")

    with world.db.read() as session:
        assert session.get(Project, project.id).name == "a\ufffdb?c"


def test_clock_is_utc(db):
    with db.read() as session:
        now = utc_now(session)

    assert now.tzinfo is UTC
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)


def test_unreachable_database_raises():
    database = Database(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing"))

    with pytest.raises(DatabaseUnavailable) as caught:
        database.ping()
    assert isinstance(caught.value, Unavailable)
    database.dispose()


def test_busy_database_raises(sqlite_template):
    url = f"sqlite:///{sqlite_template}"
    first, second = Database(make_engine(url)), Database(make_engine(url, busy_timeout_seconds=0.01))

    with first.write() as writing:
        projects.create(writing, "unfinished")
        with pytest.raises(DatabaseUnavailable), second.write() as session:
            session.execute(text("SELECT 1"))
        writing.rollback()
    first.dispose()
    second.dispose()


def test_reader_does_not_wait_for_a_writer(world):
    with world.db.write() as writing:
        projects.create(writing, "unfinished")
        names = [p.name for p in world.read(projects.list_projects)]

    assert names == ["main"]


def test_sqlite_pragmas(sqlite_template):
    database = Database(make_engine(f"sqlite:///{sqlite_template}"))
    with database.read() as session:
        pragmas = {name: session.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "foreign_keys")}

    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1}
    database.dispose()


def test_concurrent_first_connections_wait_for_each_other(tmp_path):
    failures = []

    def connect(url, start):
        engine = make_engine(url)
        start.wait()
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x)")
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        engine.dispose()

    for number in range(60):  # without the retry, about 1 in 12 fails
        start = threading.Barrier(4)
        arguments = (f"sqlite:///{tmp_path}/{number}.db", start)
        threads = [threading.Thread(target=connect, args=arguments) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failures == []
