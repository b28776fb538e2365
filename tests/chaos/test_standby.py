"""After a failover a process may be connected to a read-only standby."""

import pytest
from sqlalchemy import text

from core.store import projects
from core.store.db import Database, DatabaseUnavailable, make_engine, migrate
from tests.support.postgres import PostgresServer


@pytest.fixture
def server():
    server = PostgresServer()
    yield server
    server.close()


def test_a_standby_can_be_read_and_is_unavailable_for_writes_until_its_promotion(server):
    migrate(server.url)
    server.restart_as_standby()
    database = Database(make_engine(server.url))

    for attempt in range(2):  # the driver begins a transaction with another statement after the first read
        with pytest.raises(DatabaseUnavailable), database.write() as session:
            projects.create(session, f"rejected {attempt}")
        with database.read() as session:
            assert projects.list_projects(session) == []

    with database.read() as session:
        assert session.execute(text("SELECT pg_promote()")).scalar_one()
    with database.write() as session:
        projects.create(session, "created")
    database.dispose()
