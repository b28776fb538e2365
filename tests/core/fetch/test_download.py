"""Downloads from hostile resolvers and servers."""

import gzip
import itertools
import socket
import ssl
import time

import pytest

from core.errors import PotstillError
from core.fetch import connection as connection_module
from core.fetch.connection import resolve
from core.fetch.targets import NetworkPolicy
from core.ingest_errors import DownloadFailed, DownloadTooLarge, UrlNotAllowed

URL = "https://files.example/pets.zip?signature=secret"
PUBLIC = "93.184.216.34"
BODY = b"PK\x03\x04" + b"x" * 5000


def responding(*lines, body=BODY):
    """Respond with these header lines and a body."""
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return lambda connection, _: connection.sendall(head + body)


def file_of(body=BODY, *more):
    return responding("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *more, body=body)


def redirecting(location, status=302):
    return responding(f"HTTP/1.1 {status} Found", f"Location: {location}", "Content-Length: 0", body=b"")


def by_path(**handlers):
    """Dispatch on the request path."""
    return lambda connection, request: handlers[request.split(b" ")[1].decode().strip("/").partition("?")[0]](
        connection, request
    )


def assert_fails(fetch, kind, *args, match=None, **options):
    """Assert that a download fails; the message must not contain the query, which may be a signature."""
    with pytest.raises(kind, match=match) as error:
        fetch(*args, **options)
    assert "secret" not in str(error.value)
    assert type(error.value) is kind
    return error.value


# --- valid downloads -----------------------------------------------------------------------------


def test_a_file_is_downloaded(fetch, internet):
    heads = []
    path, size = fetch(URL, file_of(), check_head=heads.append)

    assert (path.read_bytes(), size) == (BODY, len(BODY))
    assert heads == [BODY[:1024]]
    assert internet.connected == [(PUBLIC, 443)]
    assert fetch.server.names == ["files.example"]


def test_the_request_sends_only_the_necessary_headers(fetch):
    fetch(URL, file_of())
    lines = fetch.server.requests[0].decode().split("\r\n")

    assert lines[0] == "GET /pets.zip?signature=secret HTTP/1.1"
    assert sorted(line.partition(":")[0] for line in lines[1:] if line) == [
        "Accept", "Accept-Encoding", "Host", "User-Agent",
    ]  # fmt: skip
    assert "Host: files.example" in lines
    assert "Accept-Encoding: identity" in lines


def test_the_head_of_a_small_file_is_checked(fetch):
    heads = []
    fetch(URL, file_of(b"tiny"), check_head=heads.append)

    assert heads == [b"tiny"]


def test_chunked_and_connection_delimited_bodies_are_downloaded(fetch, tmp_path):
    chunked = responding("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"4\r\nPK\x03\x04\r\n0\r\n\r\n")
    assert fetch(URL, chunked)[1] == 4
    (tmp_path / "file").unlink()

    assert fetch(URL, responding("HTTP/1.0 200 OK", body=b"PK\x03\x04"))[1] == 4


def test_redirects_are_followed_across_hosts(fetch, internet):
    internet.names["other.example"] = [["198.41.0.4"]]
    handle = by_path(**{"pets.zip": redirecting("/b", 301), "b": redirecting("//other.example/c", 307), "c": file_of()})

    assert fetch(URL, handle)[1] == len(BODY)
    assert internet.connected == [(PUBLIC, 443), (PUBLIC, 443), ("198.41.0.4", 443)]


def test_an_unreachable_address_falls_back_to_the_next(fetch, internet):
    internet.names["files.example"] = [["198.41.0.4", PUBLIC]]
    internet.unreachable.add("198.41.0.4")

    assert fetch(URL, file_of())[1] == len(BODY)
    assert internet.connected == [("198.41.0.4", 443), (PUBLIC, 443)]


def test_proxy_variables_are_ignored(fetch, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert fetch(URL, file_of())[1] == len(BODY)


def test_a_literal_address_is_not_resolved(fetch, internet):
    assert fetch(f"https://{PUBLIC}/a", file_of())[1] == len(BODY)
    assert (internet.resolved, internet.connected) == ([], [(PUBLIC, 443)])


# --- hostile resolvers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "224.0.0.1", "::1",
     "::", "::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1%eth0", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
     "2001::1"],
)  # fmt: skip
def test_a_name_that_resolves_to_a_private_address_is_rejected(fetch, internet, answer):
    internet.names["files.example"] = [[answer]]

    assert_fails(fetch, UrlNotAllowed, URL, match="not public")
    assert internet.connected == []


@pytest.mark.parametrize("answers", [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], ["2606:2800::1", PUBLIC, "::1"]])
def test_one_private_address_among_public_ones_rejects_the_host(fetch, internet, answers):
    internet.names["files.example"] = [answers]

    assert_fails(fetch, UrlNotAllowed, URL)
    assert internet.connected == []


def test_dns_rebinding_connects_to_the_checked_address(fetch, internet):
    """DNS rebinding: public when checked, private at a second lookup."""
    internet.names["files.example"] = [[PUBLIC], ["127.0.0.1"]]

    assert fetch(URL, file_of())[1] == len(BODY)
    assert (internet.resolved, internet.connected) == (["files.example"], [(PUBLIC, 443)])


def test_dns_rebinding_between_redirects_is_rejected(fetch, internet):
    internet.names["files.example"] = [[PUBLIC], ["127.0.0.1"]]

    assert_fails(fetch, UrlNotAllowed, URL, redirecting("/again"))
    assert internet.connected == [(PUBLIC, 443)]


def test_a_name_without_addresses_fails(fetch, internet):
    internet.names["files.example"] = [[]]

    assert_fails(fetch, DownloadFailed, URL, match="no address")


def test_only_the_first_addresses_of_a_host_are_tried(fetch, internet):
    dead = [f"198.41.0.{number}" for number in range(1, 100)]
    internet.names["files.example"], internet.unreachable = [dead], set(dead)

    assert_fails(fetch, DownloadFailed, URL)
    assert len(internet.connected) == 4


def test_a_resolver_without_response_times_out(monkeypatch):
    monkeypatch.setattr(connection_module, "RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1))

    with pytest.raises(DownloadFailed, match="could not be resolved within"):
        resolve("slow.example")


def test_an_unknown_host_name_fails(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(DownloadFailed, match="could not be resolved; check its spelling"):
        resolve("nowhere.example")


def test_the_system_resolver_returns_all_addresses():
    assert {str(address) for address in resolve("localhost")} <= {"127.0.0.1", "::1"}


# --- hostile redirects ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    ["http://files.example/a", "https://169.254.169.254/latest/meta-data", "https://localhost/a", "https://[::1]/a",
     "https://2852039166/", "https://files.example:22/", "https://me:pw@files.example/", "file:///etc/passwd",
     "gopher://files.example/", "https://inside.example/a", "https:\\\\127.0.0.1", "https://127.0.0.1\\@files.example/"],
)  # fmt: skip
def test_a_redirect_is_checked_like_the_first_url(fetch, internet, location):
    internet.names["inside.example"] = [["192.168.1.1"]]

    assert_fails(fetch, UrlNotAllowed, URL, redirecting(location))
    assert internet.connected == [(PUBLIC, 443)]


def test_the_number_of_redirects_is_limited(fetch):
    assert_fails(fetch, DownloadFailed, URL, redirecting("/pets.zip"), match="more than 5 times")
    assert len(fetch.server.requests) == 6


def test_a_redirect_without_a_location_fails(fetch):
    assert_fails(
        fetch,
        DownloadFailed,
        URL,
        responding("HTTP/1.1 302 Found", "Content-Length: 0", body=b""),
        match="without a location",
    )


# --- hostile servers -----------------------------------------------------------------------------


def test_a_certificate_for_another_name_is_rejected(fetch, internet):
    internet.names["wrong.example"] = [[PUBLIC]]

    assert_fails(fetch, DownloadFailed, "https://wrong.example/a", match="(?i)certificate")


def test_a_certificate_of_an_unknown_authority_is_rejected(fetch):
    assert_fails(fetch, DownloadFailed, URL, match="(?i)certificate", make_ssl_context=ssl.create_default_context)


def test_an_endless_body_hits_the_size_limit(fetch, tmp_path):
    def endless(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in itertools.count():
            connection.sendall(b"PK\x03\x04" * 16_384)

    assert_fails(fetch, DownloadTooLarge, URL, endless, match="1,000,000 bytes")
    assert (tmp_path / "file").stat().st_size <= 1_000_000


def test_a_too_large_content_length_is_rejected_before_reading(fetch, tmp_path):
    assert_fails(fetch, DownloadTooLarge, URL, responding("HTTP/1.1 200 OK", "Content-Length: 1000001"))
    assert not (tmp_path / "file").exists()


def test_a_chunk_with_a_huge_declared_size_is_counted_while_reading(fetch):
    def huge(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n")
        for _ in itertools.count():
            connection.sendall(b"x" * 65_536)

    assert_fails(fetch, DownloadTooLarge, URL, huge)


def test_a_body_shorter_than_its_content_length_fails(fetch):
    assert_fails(
        fetch,
        DownloadFailed,
        URL,
        responding("HTTP/1.1 200 OK", "Content-Length: 90000"),
        match="did not arrive completely",
    )


def test_a_body_longer_than_its_content_length_is_truncated(fetch):
    assert fetch(URL, responding("HTTP/1.1 200 OK", "Content-Length: 100"))[0].read_bytes() == BODY[:100]


@pytest.mark.parametrize(
    "lines",
    [
        ("HTTP/1.1 200 OK", "Content-Length: -1"),
        ("HTTP/1.1 200 OK", "Content-Length: 1e3"),
        ("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 6"),
        ("HTTP/x 200 OK",),
        ("SSH-2.0-OpenSSH_9.9",),
        ("HTTP/1.1 999999999999 OK",),
    ],
)
def test_a_response_that_is_not_http_fails(fetch, lines):
    assert_fails(fetch, DownloadFailed, URL, responding(*lines))


def test_a_slow_body_hits_the_deadline(fetch):
    def send_slowly(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.02)

    before = time.monotonic()
    assert_fails(fetch, DownloadFailed, URL, send_slowly, seconds=0.4, match="took longer than 0.4 s")
    assert time.monotonic() - before < 3


def test_a_slow_header_hits_the_deadline(fetch):
    def send_slowly(connection, _):
        for letter in itertools.cycle(b"HTTP/1.1 200 OK\r\nX: "):
            connection.sendall(bytes([letter]))
            time.sleep(0.02)

    assert_fails(fetch, DownloadFailed, URL, send_slowly, seconds=0.4, match="took longer")


def test_a_stalled_server_hits_the_idle_timeout(fetch):
    def silent(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nPK")
        connection.recv(1)

    assert_fails(fetch, DownloadFailed, URL, silent, idle_seconds=0.2, match="stopped sending data")


def test_a_server_without_tls_handshake_hits_the_deadline(fetch, internet):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections without a TLS handshake
        internet_port = silent.getsockname()[1]
        connect = internet.connect

        def to_the_silent_server(address, port, seconds):
            internet.port = internet_port
            return connect(address, port, seconds)

        internet.connect = to_the_silent_server
        assert_fails(fetch, DownloadFailed, URL, seconds=0.4)


def test_endless_interim_responses_hit_the_deadline(fetch):
    def early(connection, _):
        for _ in itertools.count():
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)

    assert_fails(fetch, DownloadFailed, URL, early, seconds=0.5)


def test_endless_headers_are_rejected(fetch):
    def endless(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in itertools.count():
            connection.sendall(b"X-More: " + b"x" * 8000 + b"\r\n")

    assert_fails(fetch, DownloadFailed, URL, endless)


def test_content_encoding_is_not_decoded(fetch):
    """A compression bomb in Content-Encoding stays packed; only the archive reader unpacks, with its limits."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    path, size = fetch(URL, file_of(bomb, "Content-Encoding: gzip"))

    assert size == len(bomb)
    assert path.read_bytes() == bomb


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 429, 500, 503])
def test_other_statuses_fail(fetch, status):
    assert_fails(
        fetch,
        DownloadFailed,
        URL,
        responding(f"HTTP/1.1 {status} No", "Content-Length: 0", body=b""),
        match=str(status),
    )


def test_a_web_page_is_rejected(fetch):
    assert_fails(
        fetch, DownloadFailed, URL, file_of(b"<html>", "Content-Type: text/html; charset=utf-8"), match="web page"
    )


@pytest.mark.parametrize("callback", ["check_head", "on_chunk"])
def test_an_exception_from_a_callback_ends_the_download(fetch, callback):
    class StopError(PotstillError):
        pass

    def end(*_):
        raise StopError("stop")

    with pytest.raises(StopError):
        fetch(URL, file_of(), **{callback: end})


# --- allowed by the settings ----------------------------------------------------------------------


def test_an_allowed_private_network_is_reachable(fetch, internet):
    internet.names["files.example"] = [["10.1.2.3"]]

    assert fetch(URL, file_of(), policy=NetworkPolicy.from_settings(["10.1.0.0/16"]))[1] == len(BODY)
    assert internet.connected == [("10.1.2.3", 443)]


def test_an_allowed_port_is_reachable(fetch, internet):
    assert fetch("https://files.example:9000/a", file_of(), policy=NetworkPolicy.from_settings([], [9000]))[1] == len(
        BODY
    )
    assert internet.connected == [(PUBLIC, 9000)]
    assert b"Host: files.example:9000\r\n" in fetch.server.requests[0]
