"""Units of work."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, StatementError

from core.errors import Unavailable
from core.store import projects
from core.store.db import Database, DatabaseUnavailable, make_engine, utc_now
from core.store.project_tables import Project


def test_what_is_written_is_read(world):
    made = world.write(projects.create, "other")

    assert [p.name for p in world.read(projects.list_projects)] == ["mine", "other"]
    assert made.name == "other"  # readable after its unit of work


def test_an_exception_undoes_the_whole_unit_of_work(world):
    def write_and_fail(session):
        projects.create(session, "other")
        raise KeyError

    with pytest.raises(KeyError):
        world.write(write_and_fail)

    assert len(world.read(projects.list_projects)) == 1


def test_a_unit_of_work_that_reads_cannot_write(world):
    with pytest.raises((DBAPIError, DatabaseUnavailable)), world.db.read() as session:
        projects.create(session, "other")

    world.write(projects.create, "another")  # the same connection writes again afterwards
    assert [p.name for p in world.read(projects.list_projects)] == ["mine", "another"]


def test_two_who_read_and_then_write_do_not_lose_an_update(world):
    """The trap of SQLite's deferred transactions, and of a read-modify-write without a lock."""

    def add():
        for _ in range(20):
            with world.db.write() as session:
                mine = session.get(Project, world.project, with_for_update=True)
                mine.name = str(int(mine.name) + 1)

    with world.db.write() as session:
        session.get(Project, world.project).name = "0"
    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with world.db.read() as session:
        assert session.get(Project, world.project).name == "80"


def test_moments_come_back_in_utc(db):
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5)))
    with db.write() as session:
        session.add(Project(id="prj_1", name="p", created_at=moment))
    with db.read() as session:
        found = session.get(Project, "prj_1").created_at

    assert found == moment
    assert found.tzinfo is UTC


def test_a_moment_without_a_time_zone_is_refused(db):
    naive = datetime(2026, 1, 2)  # noqa: DTZ001

    with pytest.raises(StatementError, match="naive"), db.write() as session:
        session.add(Project(id="prj_1", name="p", created_at=naive))


def test_words_that_no_database_takes_are_cleaned(world):
    made = world.write(projects.create, "a\x00b\ud800c")

    with world.db.read() as session:
        assert session.get(Project, made.id).name == "a\ufffdb?c"


def test_the_clock_is_utc(db):
    with db.read() as session:
        now = utc_now(session)

    assert now.tzinfo is UTC
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_database_that_is_away_says_so():
    away = Database(make_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing"))

    with pytest.raises(DatabaseUnavailable) as caught:
        away.ping()
    assert isinstance(caught.value, Unavailable)
    away.dispose()


def test_a_busy_database_says_so(sqlite_template):
    url = f"sqlite:///{sqlite_template}"
    first, second = Database(make_engine(url)), Database(make_engine(url, busy_timeout_seconds=0.01))

    with first.write() as writing:
        projects.create(writing, "unfinished")
        with pytest.raises(DatabaseUnavailable), second.write() as session:
            session.execute(text("SELECT 1"))
        writing.rollback()
    first.dispose()
    second.dispose()


def test_readers_do_not_wait_for_a_writer(world):
    with world.db.write() as writing:
        projects.create(writing, "unfinished")
        names = [p.name for p in world.read(projects.list_projects)]

    assert names == ["mine"]


def test_sqlite_is_set_up_for_several_processes(sqlite_template):
    database = Database(make_engine(f"sqlite:///{sqlite_template}"))
    with database.read() as session:
        found = {one: session.execute(text(f"PRAGMA {one}")).scalar() for one in ("journal_mode", "foreign_keys")}

    assert found == {"journal_mode": "wal", "foreign_keys": 1}
    database.dispose()


def test_many_who_open_a_new_file_at_once_wait_for_each_other(tmp_path):
    failures = []

    def open_it(url, start):
        engine = make_engine(url)
        start.wait()
        try:
            with engine.begin() as connection:
                connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (x)")
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        engine.dispose()

    for number in range(60):  # one in twelve failed, before
        start = threading.Barrier(4)
        arguments = (f"sqlite:///{tmp_path}/{number}.db", start)
        threads = [threading.Thread(target=open_it, args=arguments) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failures == []
