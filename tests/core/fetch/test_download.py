"""Files from URLs: hostile resolvers, hostile servers, and the one end that each must have."""

import gzip
import itertools
import socket
import ssl
import time

import pytest

from core.errors import PotstillError
from core.fetch.connection import resolve
from core.fetch.targets import NetworkPolicy
from core.ingest_errors import DownloadFailed, DownloadTooLarge, UrlNotAllowed

URL = "https://files.example/pets.zip?signature=geheim"
PUBLIC = "93.184.216.34"
BODY = b"PK\x03\x04" + b"x" * 5000


def answering(*lines, body=BODY):
    """Answer with these lines of a header, and a body."""
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return lambda connection, _: connection.sendall(head + body)


def file_of(body=BODY, *more):
    return answering("HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *more, body=body)


def redirecting(location, status=302):
    return answering(f"HTTP/1.1 {status} Found", f"Location: {location}", "Content-Length: 0", body=b"")


def by_path(**handlers):
    """Another answer for each path."""
    return lambda connection, request: handlers[request.split(b" ")[1].decode().strip("/").partition("?")[0]](
        connection, request
    )


def refused(fetch, kind, *args, words=None, **options):
    """Fetch, and say how it was refused; no message holds the query, which may be a signature."""
    with pytest.raises(kind, match=words) as error:
        fetch(*args, **options)
    assert "geheim" not in str(error.value)
    assert type(error.value) is kind
    return error.value


# --- as it should be -----------------------------------------------------------------------------


def test_a_file_arrives_whole(fetch, internet):
    heads = []
    path, size = fetch(URL, file_of(), look=heads.append)

    assert (path.read_bytes(), size) == (BODY, len(BODY))
    assert heads == [BODY[:1024]]
    assert internet.dialled == [(PUBLIC, 443)]
    assert fetch.server.names == ["files.example"]


def test_the_request_says_no_more_than_it_must(fetch):
    fetch(URL, file_of())
    lines = fetch.server.requests[0].decode().split("\r\n")

    assert lines[0] == "GET /pets.zip?signature=geheim HTTP/1.1"
    assert sorted(line.partition(":")[0] for line in lines[1:] if line) == [
        "Accept", "Accept-Encoding", "Host", "User-Agent",
    ]  # fmt: skip
    assert "Host: files.example" in lines
    assert "Accept-Encoding: identity" in lines


def test_a_small_file_is_looked_at_too(fetch):
    heads = []
    fetch(URL, file_of(b"tiny"), look=heads.append)

    assert heads == [b"tiny"]


def test_a_file_in_chunks_or_until_the_connection_ends_arrives_too(fetch, tmp_path):
    chunked = answering("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"4\r\nPK\x03\x04\r\n0\r\n\r\n")
    assert fetch(URL, chunked)[1] == 4
    (tmp_path / "file").unlink()

    assert fetch(URL, answering("HTTP/1.0 200 OK", body=b"PK\x03\x04"))[1] == 4


def test_redirects_are_followed_wherever_they_may_lead(fetch, internet):
    internet.names["other.example"] = [["198.41.0.4"]]
    handle = by_path(**{"pets.zip": redirecting("/b", 301), "b": redirecting("//other.example/c", 307), "c": file_of()})

    assert fetch(URL, handle)[1] == len(BODY)
    assert internet.dialled == [(PUBLIC, 443), (PUBLIC, 443), ("198.41.0.4", 443)]


def test_an_address_that_does_not_answer_is_passed_over(fetch, internet):
    internet.names["files.example"] = [["198.41.0.4", PUBLIC]]
    internet.unreachable.add("198.41.0.4")

    assert fetch(URL, file_of())[1] == len(BODY)
    assert internet.dialled == [("198.41.0.4", 443), (PUBLIC, 443)]


def test_proxies_of_the_environment_are_passed_over(fetch, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert fetch(URL, file_of())[1] == len(BODY)


def test_a_literal_address_needs_no_look_up_and_a_certificate_of_its_own(fetch, internet):
    assert fetch(f"https://{PUBLIC}/a", file_of())[1] == len(BODY)
    assert (internet.asked, internet.dialled) == ([], [(PUBLIC, 443)])


# --- hostile resolvers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    ["127.0.0.1", "10.0.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "0.0.0.0", "224.0.0.1", "::1",
     "::", "::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1%eth0", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
     "2001::1"],
)  # fmt: skip
def test_a_name_that_stands_for_something_private_is_never_connected_to(fetch, internet, answer):
    internet.names["files.example"] = [[answer]]

    refused(fetch, UrlNotAllowed, URL, words="not public")
    assert internet.dialled == []


@pytest.mark.parametrize("answers", [[PUBLIC, "10.0.0.1"], ["10.0.0.1", PUBLIC], ["2606:2800::1", PUBLIC, "::1"]])
def test_a_private_answer_among_public_ones_refuses_them_all(fetch, internet, answers):
    internet.names["files.example"] = [answers]

    refused(fetch, UrlNotAllowed, URL)
    assert internet.dialled == []


def test_a_name_that_changes_its_mind_is_connected_to_as_checked(fetch, internet):
    """DNS rebinding: public when it is checked, private when somebody would ask again."""
    internet.names["files.example"] = [[PUBLIC], ["127.0.0.1"]]

    assert fetch(URL, file_of())[1] == len(BODY)
    assert (internet.asked, internet.dialled) == (["files.example"], [(PUBLIC, 443)])


def test_a_name_that_changes_its_mind_between_redirects_is_checked_anew(fetch, internet):
    internet.names["files.example"] = [[PUBLIC], ["127.0.0.1"]]

    refused(fetch, UrlNotAllowed, URL, redirecting("/again"))
    assert internet.dialled == [(PUBLIC, 443)]


def test_a_name_without_an_address_ends_the_download(fetch, internet):
    internet.names["files.example"] = [[]]

    refused(fetch, DownloadFailed, URL, words="no address")


def test_a_host_with_many_dead_addresses_is_given_up_soon(fetch, internet):
    dead = [f"198.41.0.{number}" for number in range(1, 100)]
    internet.names["files.example"], internet.unreachable = [dead], set(dead)

    refused(fetch, DownloadFailed, URL)
    assert len(internet.dialled) == 4


def test_a_resolver_without_an_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("core.fetch.connection.RESOLVE_SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1))

    with pytest.raises(DownloadFailed, match="could not be looked up within"):
        resolve("slow.example")


def test_a_name_that_does_not_exist_is_said(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(DownloadFailed, match="could not be looked up; is it written correctly"):
        resolve("nowhere.example")


def test_the_systems_resolver_is_asked_for_all_addresses():
    assert {str(address) for address in resolve("localhost")} <= {"127.0.0.1", "::1"}


# --- hostile redirects ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    ["http://files.example/a", "https://169.254.169.254/latest/meta-data", "https://localhost/a", "https://[::1]/a",
     "https://2852039166/", "https://files.example:22/", "https://me:pw@files.example/", "file:///etc/passwd",
     "gopher://files.example/", "https://inside.example/a", "https:\\\\127.0.0.1", "https://127.0.0.1\\@files.example/"],
)  # fmt: skip
def test_a_redirect_is_checked_like_the_first_address(fetch, internet, location):
    internet.names["inside.example"] = [["192.168.1.1"]]

    refused(fetch, UrlNotAllowed, URL, redirecting(location))
    assert internet.dialled == [(PUBLIC, 443)]


def test_redirects_have_an_end(fetch):
    refused(fetch, DownloadFailed, URL, redirecting("/pets.zip"), words="more than 5 times")
    assert len(fetch.server.requests) == 6


def test_a_redirect_to_nowhere_is_said(fetch):
    refused(fetch, DownloadFailed, URL, answering("HTTP/1.1 302 Found", "Content-Length: 0", body=b""), words="nowhere")


# --- hostile servers -----------------------------------------------------------------------------


def test_a_certificate_for_another_name_is_refused(fetch, internet):
    internet.names["wrong.example"] = [[PUBLIC]]

    refused(fetch, DownloadFailed, "https://wrong.example/a", words="(?i)certificate")


def test_a_certificate_of_an_unknown_authority_is_refused(fetch):
    refused(fetch, DownloadFailed, URL, words="(?i)certificate", trust=ssl.create_default_context)


def test_a_body_without_end_is_cut_off(fetch, tmp_path):
    def endless(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in itertools.count():
            connection.sendall(b"PK\x03\x04" * 16_384)

    refused(fetch, DownloadTooLarge, URL, endless, words="1,000,000 bytes")
    assert (tmp_path / "file").stat().st_size <= 1_000_000


def test_a_body_that_says_it_is_too_large_is_not_begun(fetch, tmp_path):
    refused(fetch, DownloadTooLarge, URL, answering("HTTP/1.1 200 OK", "Content-Length: 1000001"))
    assert not (tmp_path / "file").exists()


def test_a_chunk_that_says_it_is_huge_is_counted_as_it_comes(fetch):
    def huge(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFF\r\n")
        for _ in itertools.count():
            connection.sendall(b"x" * 65_536)

    refused(fetch, DownloadTooLarge, URL, huge)


def test_a_body_shorter_than_stated_is_no_file(fetch):
    refused(
        fetch, DownloadFailed, URL, answering("HTTP/1.1 200 OK", "Content-Length: 90000"), words="did not arrive whole"
    )


def test_a_body_longer_than_stated_ends_where_it_was_stated(fetch):
    assert fetch(URL, answering("HTTP/1.1 200 OK", "Content-Length: 100"))[0].read_bytes() == BODY[:100]


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
def test_an_answer_that_is_no_http_is_said(fetch, lines):
    refused(fetch, DownloadFailed, URL, answering(*lines))


def test_a_body_that_drips_is_given_up_in_time(fetch):
    def drip(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b"x")
            time.sleep(0.02)

    before = time.monotonic()
    refused(fetch, DownloadFailed, URL, drip, seconds=0.4, words="took longer than 0.4 s")
    assert time.monotonic() - before < 3


def test_a_header_that_drips_is_given_up_in_time(fetch):
    def drip(connection, _):
        for letter in itertools.cycle(b"HTTP/1.1 200 OK\r\nX: "):
            connection.sendall(bytes([letter]))
            time.sleep(0.02)

    refused(fetch, DownloadFailed, URL, drip, seconds=0.4, words="took longer")


def test_a_server_that_falls_silent_is_given_up(fetch):
    def silent(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nPK")
        connection.recv(1)

    refused(fetch, DownloadFailed, URL, silent, idle_seconds=0.2, words="silent")


def test_a_server_that_never_says_a_word_is_given_up(fetch, internet):
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and no handshake ever comes
        internet_port = deaf.getsockname()[1]
        connect = internet.connect

        def to_the_deaf_one(address, port, seconds):
            internet.port = internet_port
            return connect(address, port, seconds)

        internet.connect = to_the_deaf_one
        refused(fetch, DownloadFailed, URL, seconds=0.4)


def test_provisional_answers_without_end_are_given_up_in_time(fetch):
    def early(connection, _):
        for _ in itertools.count():
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100)

    refused(fetch, DownloadFailed, URL, early, seconds=0.5)


def test_headers_without_end_are_refused(fetch):
    def endless(connection, _):
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        for _ in itertools.count():
            connection.sendall(b"X-More: " + b"x" * 8000 + b"\r\n")

    refused(fetch, DownloadFailed, URL, endless)


def test_what_is_encoded_is_kept_as_it_came(fetch):
    """A bomb by Content-Encoding stays packed: nothing between us and the archive's own limits unpacks."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    path, size = fetch(URL, file_of(bomb, "Content-Encoding: gzip"))

    assert size == len(bomb)
    assert path.read_bytes() == bomb


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 429, 500, 503])
def test_what_is_not_answered_with_a_file_is_said(fetch, status):
    refused(
        fetch, DownloadFailed, URL, answering(f"HTTP/1.1 {status} No", "Content-Length: 0", body=b""), words=str(status)
    )


def test_a_web_page_is_not_the_file(fetch):
    refused(fetch, DownloadFailed, URL, file_of(b"<html>", "Content-Type: text/html; charset=utf-8"), words="web page")


@pytest.mark.parametrize("what", ["look", "keep_going"])
def test_what_is_asked_on_the_way_may_end_it(fetch, what):
    class Enough(PotstillError):
        pass

    def end(*_):
        raise Enough("enough")

    with pytest.raises(Enough):
        fetch(URL, file_of(), **{what: end})


# --- what the operator allows ---------------------------------------------------------------------


def test_a_store_of_ones_own_is_reached_where_it_is_allowed(fetch, internet):
    internet.names["files.example"] = [["10.1.2.3"]]

    assert fetch(URL, file_of(), reach=NetworkPolicy.of(["10.1.0.0/16"]))[1] == len(BODY)
    assert internet.dialled == [("10.1.2.3", 443)]


def test_another_port_is_reached_where_it_is_allowed(fetch, internet):
    assert fetch("https://files.example:9000/a", file_of(), reach=NetworkPolicy.of([], [9000]))[1] == len(BODY)
    assert internet.dialled == [(PUBLIC, 9000)]
    assert b"Host: files.example:9000\r\n" in fetch.server.requests[0]
