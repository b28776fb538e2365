"""Transactions with an unconfirmed commit take effect transaction."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from core.store.db import Database, DatabaseUnavailable, make_engine
from core.store.retry_commit import IdempotentTransaction


@pytest.fixture
def database(pg_new):
    database = Database(make_engine(pg_new("once")))
    with database.write() as session:
        session.execute(text("CREATE TABLE entries (value text)"))
    yield database
    database.dispose()


def insert_entry(session):
    session.execute(text("INSERT INTO entries VALUES ('x')"))
    return "done"


def count_entries(database):
    with database.read() as session:
        return session.execute(text("SELECT count(*) FROM entries")).scalar_one()


def break_connection(database, monkeypatch, *, after_commit):
    """Break the connection transaction, before or after the server commits."""
    dialect = database.engine.dialect
    commit = dialect.do_commit

    def fail_to_commit(connection):
        monkeypatch.setattr(dialect, "do_commit", commit)
        if after_commit:
            commit(connection)
        else:
            connection.rollback()
        raise OperationalError("COMMIT", {}, Exception("the server closed the connection"))

    monkeypatch.setattr(dialect, "do_commit", fail_to_commit)


@pytest.mark.parametrize("after_commit", [True, False], ids=["committed", "rolled back"])
def test_unconfirmed_commit_takes_effect_once(database, monkeypatch, after_commit):
    transaction = IdempotentTransaction(database, insert_entry)
    break_connection(database, monkeypatch, after_commit=after_commit)
    with pytest.raises(DatabaseUnavailable):
        transaction.run()

    assert transaction.run() == "done"
    assert count_entries(database) == 1


def test_read_only_work_runs_again(database, monkeypatch):
    transaction = IdempotentTransaction(
        database, lambda session: session.execute(text("SELECT count(*) FROM entries")).scalar_one()
    )
    break_connection(database, monkeypatch, after_commit=True)
    with pytest.raises(DatabaseUnavailable):
        transaction.run()
    with database.write() as session:
        insert_entry(session)

    assert transaction.run() == 1


def test_exception_of_the_work_propagates(database):
    def fails(_session):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        IdempotentTransaction(database, fails).run()


def test_sqlite_runs_the_work_directly(tmp_path):
    database = Database(make_engine(f"sqlite:///{tmp_path}/db"))
    with database.write() as session:
        session.execute(text("CREATE TABLE entries (value text)"))

    assert IdempotentTransaction(database, insert_entry).run() == "done"
    assert count_entries(database) == 1
    database.dispose()
