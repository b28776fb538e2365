"""POST requests to untrusted URLs: only checked public addresses, no redirects, limited time."""

import time

import pytest

from core.fetch.post import Poster
from core.fetch.targets import NetworkPolicy

URL = "https://files.example/hook?token=geheim"
BODY = b'{"a":1}'
HEADERS = {"Content-Type": "application/json", "webhook-id": "whd_1"}


def respond_with(status, *lines):
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines, "Content-Length: 0"])

    def handle(connection, request):
        while not request.endswith(BODY):  # a server that closes with unread bytes resets the connection
            request += connection.recv(4096)
        connection.sendall(head.encode() + b"\r\n\r\n")

    return handle


@pytest.fixture
def send(internet, authority, tls_server):
    """Send a request to a server with the given handler; return the result."""

    def run(url=URL, handle=None, *, timeout_seconds=10.0, policy=None):
        server = tls_server(handle or (lambda *_: pytest.fail("unexpected connection")))
        internet.port, run.server = server.port, server
        poster = Poster(
            policy=policy or NetworkPolicy(),
            timeout_seconds=timeout_seconds,
            resolver=internet.resolve,
            connector=internet.connect,
            make_ssl_context=authority.trust,
        )
        return poster.send(url, BODY, HEADERS)

    return run


def test_a_request_is_sent_and_accepted(send):
    result = send(handle=respond_with("204 No Content"))
    (request,) = send.server.requests

    assert (result.status, result.error) == (204, None)
    assert request.startswith(b"POST /hook?token=geheim HTTP/1.1\r\nHost: files.example\r\n")
    assert b"webhook-id: whd_1\r\n" in request
    assert b"Content-Length: 7\r\n" in request


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("500 Oops", 500, "files.example answered 500 instead of 2xx"),
        ("301 Moved", 301, "redirects are not followed"),
        ("410 Gone", 410, "answered 410"),
    ],
)
def test_other_answers_are_failures(send, internet, line, status, message):
    result = send(handle=respond_with(line, "Location: https://other.example/", "Retry-After: 120"))

    assert (result.status, result.retry_after_seconds) == (status, 120.0)
    assert message in result.error
    assert "geheim" not in result.error
    assert internet.resolved == ["files.example"]


@pytest.mark.parametrize(
    "url",
    [
        "http://files.example/",
        "https://localhost/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://2130706433/",
        "https://10.0.0.1/",
        "https://files.example:8443/",
        "https://user:password@files.example/",
    ],
)
def test_a_forbidden_url_is_not_connected_to(send, internet, url):
    result = send(url)

    assert result.status is None
    assert result.error
    assert internet.connected == []


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:169.254.169.254"]])
def test_a_name_with_a_private_address_is_not_connected_to(send, internet, addresses):
    internet.names["files.example"] = [addresses]
    result = send()

    assert "not public" in result.error
    assert not any(address in result.error for address in addresses)
    assert internet.connected == []


def test_the_connection_goes_to_the_checked_address_when_the_name_changes(send, internet):
    internet.names["files.example"] = [["93.184.216.34"], ["127.0.0.1"]]
    result = send(handle=respond_with("200 OK"))

    assert result.error is None
    assert internet.connected == [("93.184.216.34", 443)]


def test_an_allowed_network_may_be_connected_to(send, internet):
    internet.names["files.example"] = [["10.1.2.3"]]
    result = send(handle=respond_with("200 OK"), policy=NetworkPolicy.from_settings(["10.1.0.0/16"]))

    assert (result.error, internet.connected) == (None, [("10.1.2.3", 443)])


def test_a_receiver_that_does_not_answer_costs_no_more_than_the_timeout(send):
    began = time.monotonic()
    result = send(handle=lambda connection, _: connection.recv(10_000) and connection.recv(1), timeout_seconds=0.3)

    assert result.error == "files.example did not answer within 0.3 s"
    assert time.monotonic() - began < 3


def test_an_answer_that_is_not_http_is_a_failure(send):
    result = send(handle=lambda connection, _: connection.sendall(b"SSH-2.0-OpenSSH\r\n\r\n"))

    assert (result.status, result.error) == (None, "files.example did not answer with HTTP")


def test_an_unreachable_receiver_is_a_failure(send, internet):
    internet.unreachable.add("93.184.216.34")

    assert send().error == "files.example could not be reached: unreachable"


def test_an_untrusted_certificate_is_a_failure(send, internet, tls_server):
    server = tls_server(respond_with("200 OK"))
    internet.port = server.port
    poster = Poster(policy=NetworkPolicy(), timeout_seconds=10.0, resolver=internet.resolve, connector=internet.connect)
    result = poster.send(URL, b"{}", HEADERS)

    assert result.status is None
    assert "CERTIFICATE_VERIFY_FAILED" in result.error
