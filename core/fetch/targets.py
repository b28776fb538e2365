"""Parse and check untrusted URLs without network access."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Self
from urllib.parse import urlsplit

from core.fetch.addresses import Address, Network, embedded_ipv4, is_public
from core.ingest_errors import UrlNotAllowed

HTTPS_PORT = 443
_DEFAULT_PORTS = {"https": HTTPS_PORT, "http": 80}
MAX_URL_CHARACTERS = 4096

# RFC 3986, without characters on which parsers disagree, such as backslashes.
_URL_CHARACTERS = re.compile(r"[!#-;=?-\[\]_a-z~]+")
_HOST_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_BRACKETED = re.compile(r"\[[^\[\]]+\](:[0-9]*)?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LOCAL_NAMES = ("localhost", ".localhost", "localhost.localdomain")  # RFC 6761; independent of the resolver
_ALLOW_HINT = "the operator can allow a private host in POTSTILL_FETCH_ALLOW"


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Allowed connections: the public internet plus the names, networks and ports from the settings."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({HTTPS_PORT})

    @classmethod
    def from_settings(cls, allow: Iterable[str], ports: Iterable[int] = (HTTPS_PORT,)) -> Self:
        """Parse host names and networks (CIDR or one address) from the settings. Raises ``ValueError``."""
        names, networks = set(), []
        for entry in allow:
            try:
                networks.append(ip_network(entry))
            except ValueError:
                if not _HOST_NAME.fullmatch(entry.lower()) or _is_number(entry.lower()):
                    raise ValueError(f"{entry!r} is neither a host name nor a network such as 10.1.0.0/16") from None
                names.add(entry.lower())
        return cls(frozenset(names), tuple(networks), frozenset(ports))

    def allows(self, host: str, address: Address) -> bool:
        """Whether the service may connect to ``address``, to which ``host`` resolves."""
        embedded = embedded_ipv4(address) if isinstance(address, IPv6Address) else None
        effective = address if embedded is None else embedded
        return host in self.names or any(effective in network for network in self.networks) or is_public(address)


@dataclass(frozen=True, slots=True)
class Target:
    """A checked URL in parts, which is not parsed again. ``path`` includes the query."""

    host: str
    port: int
    path: str
    scheme: str = "https"

    @property
    def address(self) -> Address | None:
        """The host as an IP address; None for a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def authority(self) -> str:
        """Host and port in the format of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The full URL. Its query may contain a secret: do not log it."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse_target(url: str, policy: NetworkPolicy) -> Target:
    """Parse and check a URL without connecting. Raises :class:`UrlNotAllowed`."""
    if len(url) > MAX_URL_CHARACTERS:
        raise UrlNotAllowed(f"the URL has more than {MAX_URL_CHARACTERS:,} characters; use a shorter one")
    if not _URL_CHARACTERS.fullmatch(url):
        raise UrlNotAllowed("the URL has invalid characters; percent-encode them, write host names in xn-- form")
    try:
        parts = urlsplit(url)
        port = HTTPS_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise UrlNotAllowed(f"this is not a URL: {error}") from None
    if parts.scheme != "https":
        raise UrlNotAllowed("only https is supported; use a URL that begins with https://")
    if "@" in parts.netloc:
        raise UrlNotAllowed("a URL with a user name or password is not supported; use a signed link instead")
    if port not in policy.ports:
        allowed = ", ".join(map(str, sorted(policy.ports)))
        raise UrlNotAllowed(f"port {port} is not allowed; allowed by POTSTILL_FETCH_PORTS: {allowed}")
    if "[" in parts.netloc and not (_BRACKETED.fullmatch(parts.netloc) and ":" in (parts.hostname or "")):
        raise UrlNotAllowed("the URL's host has brackets but is not an IPv6 address")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(_checked_host((parts.hostname or "").removesuffix("."), policy), port, path)
    if target.address is not None and not policy.allows(target.host, target.address):
        raise UrlNotAllowed(f"{target.host} is not a public address; {_ALLOW_HINT}")
    return target


def parse_service_url(url: str) -> tuple[Target, NetworkPolicy]:
    """Parse the address of a service from the settings; return it with a policy that allows this host and port only.

    The operator chooses the address, so it may be private and plain http. Raises :class:`UrlNotAllowed`.
    """
    parts = urlsplit(url.lower())
    try:
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        port = None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or port is None:
        raise UrlNotAllowed("the address of a service begins with https:// or http:// and has a host name")
    host = parts.hostname.removesuffix(".")
    policy = NetworkPolicy(names=frozenset({host}), ports=frozenset({port}))
    scheme, _, rest = url.partition("://")
    target = parse_target(f"https://{rest}" if parts.port else f"https://{_with_port(rest, port)}", policy)
    return replace(target, scheme=scheme.lower()), policy


def _with_port(rest: str, port: int) -> str:
    authority, slash, path = rest.partition("/")
    return f"{authority}:{port}{slash}{path}"


def check_addresses(host: str, addresses: Iterable[Address], policy: NetworkPolicy) -> None:
    """Raise :class:`UrlNotAllowed` if any resolved address of a host is not allowed.

    One such address rejects the host: mixing public and private addresses indicates an attack. The message does not
    contain the address, because it would reveal names of the internal network.
    """
    if not all(policy.allows(host, address) for address in addresses):
        raise UrlNotAllowed(f"{host} resolves to an address that is not public; {_ALLOW_HINT}")


def _checked_host(host: str, policy: NetworkPolicy) -> str:
    if not host:
        raise UrlNotAllowed("the URL has no host")
    try:
        address = ip_address(host)
    except ValueError:
        address = None
    if isinstance(address, IPv4Address | IPv6Address):
        return str(address)
    if len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise UrlNotAllowed("the URL's host is not a valid host name")
    if _is_number(host):  # resolvers read 2130706433, 0x7f.1 and 0177.0.0.1 as addresses
        raise UrlNotAllowed("the URL's host is a number; write an address as four decimal numbers")
    if (host == _LOCAL_NAMES[0] or host.endswith(_LOCAL_NAMES[1:])) and host not in policy.names:
        raise UrlNotAllowed(f"{host} is the service's own host; {_ALLOW_HINT}")
    return host


def _is_number(host: str) -> bool:
    return bool(_NUMBER.fullmatch(host.rsplit(".", 1)[-1]))
