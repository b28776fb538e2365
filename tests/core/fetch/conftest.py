"""A simulated network: tests define DNS results, and every address leads to a loopback server."""

from dataclasses import dataclass, field
from ipaddress import ip_address

import httpcore
import pytest

from core.fetch.connection import connect
from core.fetch.download import Downloader, DownloadLimits
from core.fetch.targets import NetworkPolicy

PUBLIC = "93.184.216.34"


@dataclass
class FakeInternet:
    """``names``: DNS results per host, in order; the last one repeats."""

    names: dict[str, list[list[str]]] = field(default_factory=lambda: {"files.example": [[PUBLIC]]})
    unreachable: set[str] = field(default_factory=set)
    port: int = 0
    resolved: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)

    def resolve(self, host):
        self.resolved.append(host)
        results = self.names[host]
        return [ip_address(text) for text in (results.pop(0) if len(results) > 1 else results[0])]

    def connect(self, address, port, seconds):
        self.connected.append((str(address), port))
        if str(address) in self.unreachable:
            raise httpcore.ConnectError("unreachable")
        return connect(ip_address("127.0.0.1"), self.port, seconds)


@pytest.fixture
def internet():
    return FakeInternet()


@pytest.fixture
def fetch(internet, authority, tls_server, tmp_path):
    """Download a URL from a server with the given handler; return the path and size of the file."""

    def run(
        url,
        handle=None,
        *,
        max_bytes=1_000_000,
        seconds=10.0,
        idle_seconds=5.0,
        check_head=lambda _: None,
        on_chunk=lambda: None,
        make_ssl_context=authority.trust,
        policy=None,
    ):
        server = tls_server(handle or (lambda *_: pytest.fail("unexpected connection")))
        internet.port = server.port
        downloader = Downloader(
            policy=policy or NetworkPolicy(),
            limits=DownloadLimits(max_bytes=max_bytes, seconds=seconds, idle_seconds=idle_seconds),
            resolver=internet.resolve,
            connector=internet.connect,
            make_ssl_context=make_ssl_context,
        )
        run.server = server
        size = downloader.save(url, tmp_path / "file", check_head=check_head, on_chunk=on_chunk)
        return tmp_path / "file", size

    return run
