"""A file from a URL that a stranger gave: over https from public addresses, within limits of size and time.

Redirects are followed by hand, each checked like the first address. Bytes are kept as they come: nothing is
unpacked on the way, whatever ``Content-Encoding`` says. No proxy, cookie, password or setting of this machine's
environment takes part. Messages name hosts, never whole URLs, which may hold a signature.
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
HEAD_BYTES = 1024  # enough to see what kind of file it is
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_OK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """``seconds`` for all of it, ``idle_seconds`` between two pieces."""

    max_bytes: int
    seconds: float
    idle_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloader:
    """Fetches files. ``resolver``, ``connector`` and ``trust`` are the system's own outside of tests."""

    reach: NetworkPolicy
    limits: DownloadLimits
    resolver: Resolver = resolve
    connector: Connector = connect
    trust: Callable[[], ssl.SSLContext] = ssl.create_default_context

    def save(self, url: str, path: Path, *, look: Callable[[bytes], None], keep_going: Callable[[], None]) -> int:
        """Fetch a URL into a new file; its size in bytes.

        ``look`` is given the first kilobyte, ``keep_going`` is called for every piece; what they raise ends it.
        Raises :class:`core.ingest_errors.UrlNotAllowed`, :class:`DownloadFailed`, :class:`DownloadTooLarge`.
        """
        deadline = Deadline(self.limits.seconds)
        trust = self.trust()
        target = parse_target(url, self.reach)
        for _ in range(MAX_REDIRECTS + 1):
            with self._answer(target, deadline, trust) as answer:
                if answer.status not in _REDIRECTS:
                    self._require_file(target, answer)
                    return self._save(target, _pieces(target, answer, deadline), path, look, keep_going)
                location = _header(answer, "location")
            if not location:
                raise DownloadFailed(f"{target.host} redirects to nowhere (status {answer.status})")
            target = parse_target(urljoin(target.url, location), self.reach)
        raise DownloadFailed(f"the address redirects more than {MAX_REDIRECTS} times; use the last one")

    @contextmanager
    def _answer(self, target: Target, deadline: Deadline, trust: ssl.SSLContext) -> Iterator[httpcore.Response]:
        backend = CheckedBackend(self.reach, deadline, resolver=self.resolver, connector=self.connector)
        idle = self.limits.idle_seconds
        timeouts = {"connect": CONNECT_SECONDS, "read": idle, "write": idle, "pool": idle}
        url = httpcore.URL(scheme=b"https", host=target.host, port=target.port, target=target.path)
        headers: Sequence[tuple[bytes | str, bytes | str]] = (
            ("Host", target.authority),
            ("User-Agent", "potstill"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        )
        with httpcore.ConnectionPool(ssl_context=trust, network_backend=backend, max_connections=1) as pool:
            with _told(target, deadline):
                request = httpcore.Request("GET", url, headers=headers, extensions={"timeout": timeouts})
                answer = pool.handle_request(request)
            try:
                yield answer
            finally:
                answer.close()

    def _require_file(self, target: Target, answer: httpcore.Response) -> None:
        if answer.status != _OK:
            raise DownloadFailed(f"{target.host} answered {answer.status} instead of a file; is the link still valid?")
        if _header(answer, "content-type").partition(";")[0].strip().lower() in {"text/html", "application/xhtml+xml"}:
            raise DownloadFailed(f"{target.host} answered with a web page; use the link to the file itself")
        stated = _header(answer, "content-length")
        if stated.isdecimal() and len(stated) < 20 and int(stated) > self.limits.max_bytes:
            raise self._too_large(target)

    def _save(
        self,
        target: Target,
        pieces: Iterator[bytes],
        path: Path,
        look: Callable[[bytes], None],
        keep_going: Callable[[], None],
    ) -> int:
        size, head = 0, bytearray()
        with path.open("xb") as file:
            for piece in pieces:
                keep_going()
                size += len(piece)
                if size > self.limits.max_bytes:
                    raise self._too_large(target)
                if len(head) < HEAD_BYTES:
                    head += piece[: HEAD_BYTES - len(head)]
                    if len(head) == HEAD_BYTES:
                        look(bytes(head))
                file.write(piece)
        if size < HEAD_BYTES:
            look(bytes(head))
        return size

    def _too_large(self, target: Target) -> DownloadTooLarge:
        most = f"{self.limits.max_bytes:,} bytes are accepted"
        return DownloadTooLarge(f"the file at {target.host} is too large: at most {most}; send a part of it")


def _pieces(target: Target, answer: httpcore.Response, deadline: Deadline) -> Iterator[bytes]:
    with _told(target, deadline):
        yield from answer.iter_stream()


@contextmanager
def _told(target: Target, deadline: Deadline) -> Iterator[None]:
    """Say what went wrong between us and the host."""
    try:
        yield
    except httpcore.TimeoutException as error:
        if deadline.is_past:
            raise deadline.passed() from None
        if isinstance(error, httpcore.ConnectTimeout):
            raise DownloadFailed(f"{target.host} does not take connections in time; try again later") from None
        raise DownloadFailed(f"{target.host} fell silent in the middle; try again later") from None
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        words = " ".join(str(error).split())[:200]
        raise DownloadFailed(
            f"the file at {target.host} did not arrive whole: {words or type(error).__name__}"
        ) from error


def _header(answer: httpcore.Response, name: str) -> str:
    wanted = name.encode()
    return next((value.decode("latin-1") for key, value in answer.headers if key.lower() == wanted), "")
