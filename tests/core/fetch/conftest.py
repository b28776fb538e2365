"""An internet of our own: names answer what a test says, every address leads to a server on loopback."""

from dataclasses import dataclass, field
from ipaddress import ip_address

import httpcore
import pytest

from core.fetch.connection import connect
from core.fetch.download import Downloader, DownloadLimits
from core.fetch.targets import NetworkPolicy

PUBLIC = "93.184.216.34"


@dataclass
class Internet:
    """``names``: for each the answers to give, one after the other; the last is given for ever."""

    names: dict[str, list[list[str]]] = field(default_factory=lambda: {"files.example": [[PUBLIC]]})
    unreachable: set[str] = field(default_factory=set)
    port: int = 0
    asked: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)

    def resolve(self, host):
        self.asked.append(host)
        answers = self.names[host]
        return [ip_address(text) for text in (answers.pop(0) if len(answers) > 1 else answers[0])]

    def connect(self, address, port, seconds):
        self.dialled.append((str(address), port))
        if str(address) in self.unreachable:
            raise httpcore.ConnectError("nobody is there")
        return connect(ip_address("127.0.0.1"), self.port, seconds)


@pytest.fixture
def internet():
    return Internet()


@pytest.fixture
def fetch(internet, authority, tls_server, tmp_path):
    """Fetch a URL from a server that answers as the function says; the path of what was saved, and its size."""

    def run(
        url,
        handle=None,
        *,
        max_bytes=1_000_000,
        seconds=10.0,
        idle_seconds=5.0,
        look=lambda _: None,
        keep_going=lambda: None,
        trust=authority.trust,
        reach=None,
    ):
        server = tls_server(handle or (lambda *_: pytest.fail("nobody should connect")))
        internet.port = server.port
        downloader = Downloader(
            reach=reach or NetworkPolicy(),
            limits=DownloadLimits(max_bytes=max_bytes, seconds=seconds, idle_seconds=idle_seconds),
            resolver=internet.resolve,
            connector=internet.connect,
            trust=trust,
        )
        run.server = server
        size = downloader.save(url, tmp_path / "file", look=look, keep_going=keep_going)
        return tmp_path / "file", size

    return run
