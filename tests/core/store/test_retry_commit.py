"""Work whose commit was not answered has its effect once."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from core.store.db import Database, DatabaseUnavailable, make_engine
from core.store.retry_commit import IdempotentTransaction


@pytest.fixture
def database(pg_new):
    database = Database(make_engine(pg_new("once")))
    with database.write() as session:
        session.execute(text("CREATE TABLE told (word text)"))
    yield database
    database.dispose()


def tell(session):
    session.execute(text("INSERT INTO told VALUES ('here')"))
    return "said"


def told(database):
    with database.read() as session:
        return session.execute(text("SELECT count(*) FROM told")).scalar_one()


def broken(database, monkeypatch, *, after_commit):
    """Let the connection break once, before or after the server has committed."""
    dialect = database.engine.dialect
    commit = dialect.do_commit

    def breaks(connection):
        monkeypatch.setattr(dialect, "do_commit", commit)
        if after_commit:
            commit(connection)
        else:
            connection.rollback()
        raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))

    monkeypatch.setattr(dialect, "do_commit", breaks)


@pytest.mark.parametrize("after_commit", [True, False], ids=["answer lost", "commit lost"])
def test_a_commit_without_an_answer_is_not_done_twice(database, monkeypatch, after_commit):
    once = IdempotentTransaction(database, tell)
    broken(database, monkeypatch, after_commit=after_commit)
    with pytest.raises(DatabaseUnavailable):
        once.run()

    assert once.run() == "said"
    assert told(database) == 1


def test_work_that_only_reads_is_done_again(database, monkeypatch):
    once = IdempotentTransaction(
        database, lambda session: session.execute(text("SELECT count(*) FROM told")).scalar_one()
    )
    broken(database, monkeypatch, after_commit=True)
    with pytest.raises(DatabaseUnavailable):
        once.run()
    with database.write() as session:
        tell(session)

    assert once.run() == 1


def test_what_the_work_raises_is_raised(database):
    def fails(_session):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        IdempotentTransaction(database, fails).run()


def test_sqlite_needs_no_asking(tmp_path):
    database = Database(make_engine(f"sqlite:///{tmp_path}/db"))
    with database.write() as session:
        session.execute(text("CREATE TABLE told (word text)"))

    assert IdempotentTransaction(database, tell).run() == "said"
    assert told(database) == 1
    database.dispose()
