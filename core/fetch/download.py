"""Download a file from an untrusted URL: https only, public addresses only, limited in size and time.

Every redirect is checked like the first URL. Bytes are saved as received: ``Content-Encoding`` is not decoded.
Proxies, cookies, passwords and environment variables are not used. Messages contain host names, never full URLs,
because URLs may contain signatures.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpcore

from core.fetch.connection import CONNECT_SECONDS, CheckedBackend, Connector, Deadline, Resolver, connect, resolve
from core.fetch.targets import NetworkPolicy, Target, parse_target
from core.ingest_errors import DownloadFailed, DownloadTooLarge

MAX_REDIRECTS = 5
HEAD_BYTES = 1024  # enough to detect the file type
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """``seconds`` limits the whole download, ``idle_seconds`` the time between two chunks."""

    max_bytes: int
    seconds: float
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Downloads files. Tests replace ``resolver``, ``connector`` and ``make_ssl_context``."""

    policy: NetworkPolicy
    limits: DownloadLimits
    resolver: Resolver = resolve
    connector: Connector = connect
    make_ssl_context: Callable[[], ssl.SSLContext] = ssl.create_default_context

    def save(self, url: str, path: Path, *, check_head: Callable[[bytes], None], on_chunk: Callable[[], None]) -> int:
        """Download a URL into a new file and return its size in bytes.

        ``check_head`` receives the first ``HEAD_BYTES`` bytes; ``on_chunk`` is called per chunk. Their exceptions end
        the download.
        Raises :class:`core.ingest_errors.UrlNotAllowed`, :class:`DownloadFailed`, :class:`DownloadTooLarge`.
        """
        deadline = Deadline(self.limits.seconds)
        ssl_context = self.make_ssl_context()
        target = parse_target(url, self.policy)
        for _ in range(MAX_REDIRECTS + 1):
            with self._request(target, deadline, ssl_context) as response:
                if response.status not in _REDIRECTS:
                    self._require_file(target, response)
                    return self._save(target, _chunks(target, response, deadline), path, check_head, on_chunk)
                location = _header(response, "location")
            if not location:
                raise DownloadFailed(f"{target.host} redirects without a location (status {response.status})")
            target = parse_target(urljoin(target.url, location), self.policy)
        raise DownloadFailed(f"the address redirects more than {MAX_REDIRECTS} times; use the final address")

    @contextmanager
    def _request(self, target: Target, deadline: Deadline, ssl_context: ssl.SSLContext) -> Iterator[httpcore.Response]:
        backend = CheckedBackend(self.policy, deadline, resolver=self.resolver, connector=self.connector)
        idle = self.limits.idle_seconds
        timeouts = {"connect": CONNECT_SECONDS, "read": idle, "write": idle, "pool": idle}
        url = httpcore.URL(scheme=b"https", host=target.host, port=target.port, target=target.path)
        headers: Sequence[tuple[bytes | str, bytes | str]] = (
            ("Host", target.authority),
            ("User-Agent", "potstill"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        )
        with httpcore.ConnectionPool(ssl_context=ssl_context, network_backend=backend, max_connections=1) as pool:
            with _translate_errors(target, deadline):
                request = httpcore.Request("GET", url, headers=headers, extensions={"timeout": timeouts})
                response = pool.handle_request(request)
            try:
                yield response
            finally:
                response.close()

    def _require_file(self, target: Target, response: httpcore.Response) -> None:
        if response.status != _OK:
            raise DownloadFailed(
                f"{target.host} answered {response.status} instead of a file; check that the link is still valid"
            )
        if _header(response, "content-type").partition(";")[0].strip().lower() in {
            "text/html",
            "application/xhtml+xml",
        }:
            raise DownloadFailed(f"{target.host} answered with a web page; use the link to the file itself")
        declared = _header(response, "content-length")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > self.limits.max_bytes:
            raise self._too_large(target)

    def _save(
        self,
        target: Target,
        chunks: Iterator[bytes],
        path: Path,
        check_head: Callable[[bytes], None],
        on_chunk: Callable[[], None],
    ) -> int:
        size, head = 0, bytearray()
        with path.open("xb") as file:
            for chunk in chunks:
                on_chunk()
                size += len(chunk)
                if size > self.limits.max_bytes:
                    raise self._too_large(target)
                if len(head) < HEAD_BYTES:
                    head += chunk[: HEAD_BYTES - len(head)]
                    if len(head) == HEAD_BYTES:
                        check_head(bytes(head))
                file.write(chunk)
        if size < HEAD_BYTES:
            check_head(bytes(head))
        return size

    def _too_large(self, target: Target) -> DownloadTooLarge:
        limit = f"{self.limits.max_bytes:,} bytes are accepted"
        return DownloadTooLarge(f"the file at {target.host} is too large: at most {limit}; use a smaller file")


def _chunks(target: Target, response: httpcore.Response, deadline: Deadline) -> Iterator[bytes]:
    with _translate_errors(target, deadline):
        yield from response.iter_stream()


@contextmanager
def _translate_errors(target: Target, deadline: Deadline) -> Iterator[None]:
    """Translate network errors to :class:`DownloadFailed`."""
    try:
        yield
    except httpcore.TimeoutException as error:
        if deadline.is_expired:
            raise deadline.error() from None
        if isinstance(error, httpcore.ConnectTimeout):
            raise DownloadFailed(f"{target.host} did not accept the connection in time; try again later") from None
        raise DownloadFailed(f"{target.host} stopped sending data; try again later") from None
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        message = " ".join(str(error).split())[:200]
        raise DownloadFailed(
            f"the file at {target.host} did not arrive completely: {message or type(error).__name__}"
        ) from error


def _header(response: httpcore.Response, name: str) -> str:
    encoded_name = name.encode()
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == encoded_name), "")
