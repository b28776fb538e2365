from ipaddress import ip_address

import pytest

from core.fetch.addresses import embedded_ipv4, is_public


@pytest.mark.parametrize(
    "text",
    ["93.184.216.34", "8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0",
     "2606:2800:220:1:248:1893:25c8:1946", "2001:4860:4860::8888", "2a00:1450:4001:82a::200e",
     "64:ff9b::93.184.216.34", "::ffff:93.184.216.34"],
)  # fmt: skip
def test_public_addresses_are_public(text):
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.1",
        "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192",
        "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::2", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "100::1",
        "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1",
        "2002:7f00:1::", "2002:a9fe:a9fe::", "2002:5db8:d822::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254",
        "fd20:ce::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1",
    ],
)  # fmt: skip
def test_other_addresses_are_not_public(text):
    assert not is_public(ip_address(text))


def test_an_embedded_ipv4_address_is_extracted():
    assert (
        embedded_ipv4(ip_address("::ffff:10.0.0.1"))
        == embedded_ipv4(ip_address("64:ff9b::a00:1"))
        == ip_address("10.0.0.1")
    )
    assert embedded_ipv4(ip_address("2606:2800::1")) is None
