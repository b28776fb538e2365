"""A failover may lead a process to a server that is not the first one: too early, or for too long."""

import pytest
from sqlalchemy import text

from core.store import projects
from core.store.db import Database, DatabaseUnavailable, make_engine, migrate
from tests.chaos.parts import Postgres


@pytest.fixture
def server():
    server = Postgres()
    yield server
    server.close()


def test_a_standby_can_be_read_from_and_is_away_for_who_writes_until_it_is_promoted(server):
    migrate(server.url)
    server.become_standby()
    database = Database(make_engine(server.url))

    for has_read_before in (False, True):  # the driver begins a transaction in other words then
        with pytest.raises(DatabaseUnavailable), database.write() as session:
            projects.create(session, f"refused {has_read_before}")
        with database.read() as session:
            assert projects.list_projects(session) == []

    with database.read() as session:
        assert session.execute(text("SELECT pg_promote()")).scalar_one()
    with database.write() as session:
        projects.create(session, "taken")
    database.dispose()
