"""URLs from strangers: what can be said of one before anything is asked of the network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Self
from urllib.parse import urlsplit

from core.fetch.addresses import Address, Network, carried, is_public
from core.ingest_errors import UrlNotAllowed

HTTPS_PORT = 443
MAX_URL_CHARACTERS = 4096

_CHARACTERS = re.compile(r"[!#-;=?-\[\]_a-z~]+")  # RFC 3986 without what parsers disagree about, a backslash first
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_BRACKETED = re.compile(r"\[[^\[\]]+\](:[0-9]*)?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_THIS_MACHINE = ("localhost", ".localhost", "localhost.localdomain")  # by RFC 6761, whatever a resolver says
_OWN_STORE = "an object store of one's own is named in POTSTILL_FETCH_ALLOW by whoever runs the service"


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Where the service may connect to: the public internet, and what its operator names beyond that."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({HTTPS_PORT})

    @classmethod
    def of(cls, allow: Iterable[str], ports: Iterable[int] = (HTTPS_PORT,)) -> Self:
        """Host names and networks (CIDR, or one address) as the settings give them. Raises ``ValueError``."""
        names, networks = set(), []
        for entry in allow:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if not _NAME.fullmatch(entry.lower()) or _is_number(entry.lower()):
                    raise ValueError(f"{entry!r} is neither a host name nor a network such as 10.1.0.0/16") from None
                names.add(entry.lower())
        return cls(frozenset(names), tuple(networks), frozenset(ports))

    def admits(self, host: str, address: Address) -> bool:
        """Whether the service may connect to this address, which the host stands for."""
        inner = carried(address) if isinstance(address, IPv6Address) else None
        known = address if inner is None else inner
        return host in self.names or any(known in network for network in self.networks) or is_public(address)


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL in parts; nothing behind this parses it again. ``path`` includes the query."""

    host: str
    port: int
    path: str

    @property
    def address(self) -> Address | None:
        """The host where it is an address and no name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """Host and port as the header ``Host`` gives them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The whole URL. It may hold a secret in its query: not for messages and logs."""
        return f"https://{self.authority}{self.path}"


def parse_target(url: str, reach: NetworkPolicy) -> Target:
    """Check what can be checked without a connection. Raises :class:`UrlNotAllowed`."""
    if len(url) > MAX_URL_CHARACTERS:
        raise UrlNotAllowed(f"a URL of more than {MAX_URL_CHARACTERS:,} characters is not read")
    if not _CHARACTERS.fullmatch(url):
        raise UrlNotAllowed("the URL has characters that no URL has; percent-encode them, write names in xn-- form")
    try:
        parts = urlsplit(url)
        port = HTTPS_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise UrlNotAllowed(f"this is not a URL: {error}") from None
    if parts.scheme != "https":
        raise UrlNotAllowed("only https is fetched here; put the file behind an address that begins with https://")
    if "@" in parts.netloc:
        raise UrlNotAllowed("a URL with a user name or password is not fetched; use a signed link instead")
    if port not in reach.ports:
        known = ", ".join(map(str, sorted(reach.ports)))
        raise UrlNotAllowed(f"port {port} is not connected to, {known} is; more are allowed by POTSTILL_FETCH_PORTS")
    if "[" in parts.netloc and not (_BRACKETED.fullmatch(parts.netloc) and ":" in (parts.hostname or "")):
        raise UrlNotAllowed("the URL's host has brackets and is no IPv6 address")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(_checked_host((parts.hostname or "").removesuffix("."), reach), port, path)
    if target.address is not None and not reach.admits(target.host, target.address):
        raise UrlNotAllowed(f"{target.host} is no public address; {_OWN_STORE}")
    return target


def require_admitted(host: str, addresses: Iterable[Address], reach: NetworkPolicy) -> None:
    """Raise :class:`UrlNotAllowed` if a host stands for any address that must not be connected to.

    One is enough: whoever mixes public and private answers is up to something. The address itself is not named:
    what a name resolves to within this network is nobody's business outside.
    """
    if not all(reach.admits(host, address) for address in addresses):
        raise UrlNotAllowed(f"{host} stands for an address that is not public; {_OWN_STORE}")


def _checked_host(host: str, reach: NetworkPolicy) -> str:
    if not host:
        raise UrlNotAllowed("the URL names no host")
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if isinstance(address, IPv4Address | IPv6Address):
        return str(address)
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise UrlNotAllowed("the URL's host is no name that can be looked up")
    if _is_number(host):  # resolvers read 2130706433, 0x7f.1 and 0177.0.0.1 as addresses
        raise UrlNotAllowed("the URL's host is a number; write an address as four decimal numbers")
    if (host == _THIS_MACHINE[0] or host.endswith(_THIS_MACHINE[1:])) and host not in reach.names:
        raise UrlNotAllowed(f"{host} is the service's own machine; {_OWN_STORE}")
    return host


def _is_number(host: str) -> bool:
    return bool(_NUMBER.fullmatch(host.rsplit(".", 1)[-1]))
