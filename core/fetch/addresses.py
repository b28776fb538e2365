"""Decide which IP addresses belong to the public internet and may be connected to for an untrusted URL."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# From the IANA registries of special-purpose addresses. ``ipaddress.is_global`` differs between Python versions.
_NON_PUBLIC_IPV4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; metadata of some clouds
        "127.0.0.0/8",
        "168.63.129.16/32",  # public range, but Azure's platform address inside virtual machines
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
)
_PUBLIC_IPV6 = IPv6Network("2000::/3")  # all other ranges are local, multicast or unassigned
_NON_PUBLIC_IPV6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # IETF protocols, including Teredo, which embeds an IPv4 address
        "2001:db8::/32",
        "2002::/16",  # 6to4 embeds an IPv4 address
        "3fff::/20",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # IPv4 access from IPv6-only networks; the last 32 bits are the IPv4 address


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet; an embedded IPv4 address decides for its IPv6 address."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NON_PUBLIC_IPV4)
    embedded = embedded_ipv4(address)
    if embedded is not None:
        return is_public(embedded)
    return (
        address.scope_id is None
        and address in _PUBLIC_IPV6
        and not any(address in network for network in _NON_PUBLIC_IPV6)
    )


def embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address embedded in an IPv4-mapped or NAT64 address, or None."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
