from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fetch.addresses import is_public
from core.fetch.targets import NetworkPolicy, Target, check_addresses, parse_target
from core.ingest_errors import UrlNotAllowed

ANYWHERE = NetworkPolicy()


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", Target("example.com", 443, "/")),
        ("https://EXAMPLE.com./a/b.zip?x=1&y=%20#part", Target("example.com", 443, "/a/b.zip?x=1&y=%20")),
        ("HTTPS://example.com:443/a", Target("example.com", 443, "/a")),
        ("https://xn--bcher-kva.example/~me/a(1).zip", Target("xn--bcher-kva.example", 443, "/~me/a(1).zip")),
        ("https://my_bucket.s3.example/a@b", Target("my_bucket.s3.example", 443, "/a@b")),
        ("https://93.184.216.34/a", Target("93.184.216.34", 443, "/a")),
        ("https://[2606:2800:220:1::1946]/a", Target("2606:2800:220:1::1946", 443, "/a")),
    ],
)
def test_a_valid_url_is_parsed(url, target):
    assert parse_target(url, ANYWHERE) == target


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://example.com/a", "only https"),
        ("ftp://example.com/a", "only https"),
        ("file:///etc/passwd", "only https"),
        ("data:application/zip;base64,UEsFBg", "only https"),
        ("//example.com/a", "only https"),
        ("example.com/a", "only https"),
        ("", "characters"),
        ("https:///a", "has no host"),
        ("https://?a", "has no host"),
        ("https://example.com:8443/a", "port 8443"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "not a URL"),
        ("https://example.com:x/", "not a URL"),
        ("https://me@example.com/", "signed link"),
        ("https://me:secret@example.com/", "signed link"),
        ("https://example.com@127.0.0.1/", "signed link"),
        ("https://exa mple.com/", "percent-encode"),
        ("https://example.com/\n", "percent-encode"),
        ("https://example.com\t/", "percent-encode"),
        (" https://example.com/", "percent-encode"),
        ("https://example.com\\@127.0.0.1/", "percent-encode"),
        ("https:\\\\127.0.0.1\\a", "percent-encode"),
        ("https://bücher.example/", "percent-encode"),
        ("https://①②⑦.⓪.⓪.①/", "percent-encode"),
        ("https://example.com/ä", "percent-encode"),
        ("https://-a.example/", "not a valid host name"),
        ("https://a..example/", "not a valid host name"),
        ("https://exam%70le.com/", "not a valid host name"),
        ("https://" + "a" * 64 + ".example/", "not a valid host name"),
        ("https://" + "a." * 130 + "example/", "not a valid host name"),
        ("https://[::1/", "not a URL"),
        ("https://[v1.x]/", "brackets"),
        ("https://[2606:2800::1].example/", "brackets"),
        ("https://" + "a" * 5000, "4,096"),
    ],
)
def test_an_invalid_url_is_rejected_with_the_fix(url, message):
    with pytest.raises(UrlNotAllowed, match=message) as error:
        parse_target(url, ANYWHERE)

    assert "secret" not in error.value.detail


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "127.0.1", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "0177.0.0.1",
        "0x7f.0.0.1", "0", "0x", "1.2.3", "10.0.0.1", "169.254.169.254", "0xa9fea9fe", "2852039166", "192.168.1.1.",
        "127.0.0.1.",
        "example.0x7f", "1.2.3.4.5", "999.1.1.1",
        "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]", "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]", "[fe80::1]", "[fe80::1%25eth0]", "[fd00:ec2::254]", "[ff02::1]", "[::1].example.com",
        "localhost", "LOCALHOST", "localhost.", "a.localhost", "localhost.localdomain",
    ],
)  # fmt: skip
def test_local_addresses_are_rejected_in_every_notation(host):
    with pytest.raises(UrlNotAllowed):
        parse_target(f"https://{host}/a", ANYWHERE)


def test_the_settings_allow_names_networks_and_ports():
    policy = NetworkPolicy.from_settings(["store.internal", "10.1.0.0/16", "fd12::/16", "LOCALHOST"], [443, 9000])

    for url in ("https://10.1.2.3:9000/", "https://[fd12::1]/", "https://[::ffff:10.1.2.3]/", "https://localhost/"):
        parse_target(url, policy)
    check_addresses("store.internal", [ip_address("192.168.0.9")], policy)
    for url in ("http://10.1.2.3/", "https://10.2.0.1/", "https://127.0.0.1/", "https://10.1.2.3:80/"):
        with pytest.raises(UrlNotAllowed):
            parse_target(url, policy)
    with pytest.raises(UrlNotAllowed):
        check_addresses("evil.store.internal", [ip_address("192.168.0.9")], policy)


@pytest.mark.parametrize(
    "entry", ["10.0.0.1/8", "10.0.0.0/33", "https://x.example", "a b", "*", "10.0.0", "*.internal"]
)
def test_an_invalid_setting_is_rejected(entry):
    with pytest.raises(ValueError, match="neither a host name nor a network"):
        NetworkPolicy.from_settings([entry])


def test_one_private_address_is_enough_and_not_in_the_message():
    with pytest.raises(UrlNotAllowed, match="not public") as error:
        check_addresses("evil.example", [ip_address("93.184.216.34"), ip_address("10.3.2.1")], ANYWHERE)

    assert "10.3.2.1" not in error.value.detail


@given(st.text(max_size=60) | st.from_regex(r"https://[0-9a-fx.:\[\]@%]{1,30}(/.{0,5})?", fullmatch=True))
def test_an_accepted_url_has_a_name_or_a_public_address(url):
    try:
        target = parse_target(url, ANYWHERE)
    except UrlNotAllowed:
        return
    assert target.address is None or is_public(target.address)
    assert target.port == 443
    assert parse_target(target.url, ANYWHERE) == target
