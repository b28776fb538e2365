"""Deliveries to a real receiver over TLS on loopback, which verifies them with the library of Standard Webhooks."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from core.store import jobs, webhooks
from core.store.db import utc_now
from tests.support.ports import free_port
from tests.support.waiting import until
from worker.scheduler.scheduler import Scheduler
from worker.scheduler.webhook_sender import WebhookSender

PAGE = Path(__file__).parents[3] / "docs" / "webhooks.md"
SECRET_KEY = "k" * 32


class Receiver:
    """Answers with the next status of ``statuses``, then 204. ``on_request`` runs between request and answer."""

    def __init__(self, tls_server, *statuses, on_request=lambda: None):
        self.requests, self._statuses, self._on_request = [], list(statuses), on_request
        self.port = tls_server(self._handle).port
        self.url = f"https://localhost:{self.port}/hook"

    def _handle(self, connection, request):
        head, _, body = request.partition(b"\r\n\r\n")
        fields = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
        headers = {name.decode().lower(): value.decode() for name, _, value in fields}
        while len(body) < int(headers["content-length"]):
            body += connection.recv(4096)
        self.requests.append((headers, body))
        self._on_request()
        status = self._statuses.pop(0) if self._statuses else 204
        connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())

    @property
    def ids(self):
        return [headers["webhook-id"] for headers, _ in self.requests]


@pytest.fixture
def start(service, authority, monkeypatch):
    """Create a webhook for a receiver; return it and a sender with a clock that ``sender.later`` sets forward."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))

    def make(receiver, *events):
        changes = {"fetch_allow": ("localhost",), "fetch_ports": (receiver.port,), "secret_key": SecretStr(SECRET_KEY)}
        settings = service.settings.model_copy(update=changes)
        new = service.write(
            webhooks.create, service.project, url=receiver.url, events=events or ("*",), secret_key=SECRET_KEY
        )
        later = {"seconds": 0.0}
        sender = WebhookSender(
            service.context.database,
            settings,
            clock=lambda session: utc_now(session) + timedelta(seconds=later["seconds"]),
        )
        sender.settings, sender.later = settings, lambda seconds: later.update(seconds=seconds)
        return new, sender

    return make


def log_of(service, new):
    return service.read(webhooks.list_deliveries, service.project, new.webhook.id).items


def test_a_delivery_verifies_with_the_official_library(service, start, tls_server):
    receiver = Receiver(tls_server)
    new, sender = start(receiver, "job.created")
    job = service.create_job()
    assert sender.deliver_next()
    assert not sender.deliver_next()

    (headers, body), (delivery,) = receiver.requests[0], log_of(service, new)
    event = Webhook(new.secret).verify(body, headers)
    assert (event["type"], event["data"]["job"]["id"]) == ("job.created", job.id)
    assert headers["webhook-id"] == delivery.id
    assert (delivery.status, [entry["status"] for entry in delivery.attempts]) == ("succeeded", [204])
    with pytest.raises(WebhookVerificationError):
        Webhook(new.secret).verify(body.replace(b"queued", b"failed"), headers)


def test_a_failed_attempt_is_repeated_later_with_the_same_id_and_body(service, start, tls_server):
    receiver = Receiver(tls_server, 500)
    new, sender = start(receiver, "job.created")
    service.create_job()
    sender.deliver_next()
    assert not sender.deliver_next(), "the first interval is five seconds"
    sender.later(6)
    assert sender.deliver_next()

    (first, second), (delivery,) = receiver.requests, log_of(service, new)
    assert (first[0]["webhook-id"], first[1]) == (second[0]["webhook-id"], second[1])
    assert int(second[0]["webhook-timestamp"]) >= int(first[0]["webhook-timestamp"]) + 5
    assert [entry["status"] for entry in delivery.attempts] == [500, 204]


def test_during_a_rotation_old_and_new_secret_verify(service, start, tls_server):
    receiver = Receiver(tls_server)
    old, sender = start(receiver, "job.created")
    options = {"secret_key": SECRET_KEY, "overlap": timedelta(hours=1)}
    new = service.write(webhooks.rotate, service.project, old.webhook.id, **options)
    service.create_job()
    sender.deliver_next()

    headers, body = receiver.requests[0]
    for secret in (old.secret, new.secret):
        assert Webhook(secret).verify(body, headers)["type"] == "job.created"


def test_a_changed_secret_key_sends_nothing_and_is_logged(service, start, tls_server):
    receiver = Receiver(tls_server)
    new, sender = start(receiver, "job.created")
    sender._load_secret_key = lambda: "another" * 8
    service.create_job()
    sender.deliver_next()

    assert receiver.requests == []
    assert "POTSTILL_SECRET_KEY" in log_of(service, new)[0].attempts[0]["error"]


def test_a_sender_killed_between_sending_and_recording_loses_and_doubles_no_id(service, start, tls_server):
    """SIGKILL reaches the sender after the receiver has the request and before it answers."""
    is_started = threading.Event()

    def kill_first_sender():
        if len(receiver.requests) == 1:
            assert is_started.wait(20)
            os.kill(process.pid, signal.SIGKILL)
            process.wait(20)

    receiver = Receiver(tls_server, on_request=kill_first_sender)
    new, sender = start(receiver, "job.created")
    service.create_job()
    code = (
        "from core.settings import Settings; from core.store.db import open_database;"
        "from worker.scheduler.webhook_sender import WebhookSender; settings = Settings();"
        "WebhookSender(open_database(settings), settings).deliver_next()"
    )
    environment = {
        **os.environ,
        "POTSTILL_HOME": str(service.settings.home),
        "POTSTILL_SECRET_KEY": SECRET_KEY,
        "POTSTILL_FETCH_ALLOW": "localhost",
        "POTSTILL_FETCH_PORTS": str(receiver.port),
    }
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    is_started.set()
    assert process.wait(60) == -signal.SIGKILL
    assert not sender.deliver_next(), "the lease of the killed sender protects the delivery"
    sender.later(sender._lease_seconds + 1)
    assert sender.deliver_next()

    (delivery,) = log_of(service, new)
    assert receiver.ids == [delivery.id] * 2
    assert receiver.requests[0][1] == receiver.requests[1][1]
    assert (delivery.status, [entry["status"] for entry in delivery.attempts]) == ("succeeded", [None, 204])


def test_a_private_address_is_never_connected_to(service, start, tls_server):
    receiver = Receiver(tls_server)
    new, sender = start(receiver, "job.created")
    sender = WebhookSender(service.context.database, sender.settings.model_copy(update={"fetch_allow": ()}))
    service.create_job()
    sender.deliver_next()

    assert receiver.requests == []
    assert "service's own host" in log_of(service, new)[0].attempts[0]["error"]


def test_the_scheduler_sends_what_is_due(service, start, tls_server):
    receiver = Receiver(tls_server)
    new, sender = start(receiver, "job.created", "job.cancelled")
    job = service.create_job()
    service.write(jobs.cancel, service.project, job.id)
    scheduler = Scheduler(sender.settings)
    scheduler.send_webhooks()
    scheduler.close()

    assert sorted(receiver.ids) == sorted(delivery.id for delivery in log_of(service, new))
    assert {delivery.status for delivery in log_of(service, new)} == {"succeeded"}


def test_the_receiver_of_the_documentation_works(service, start, authority, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "receiver.py").write_text(code)

    class Address:
        port = free_port()
        url = f"https://localhost:{port}/"

    new, sender = start(Address, "job.created")
    certificate = [str(authority.folder / "server.pem"), str(authority.folder / "server.key")]
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "receiver.py"), *certificate, str(Address.port)],
            env={**os.environ, "WEBHOOK_SECRET": new.secret},
            stdout=out,
            stderr=subprocess.DEVNULL,
        )
    try:
        job = service.create_job()
        until(lambda: is_listening(Address.port), 20, "the receiver did not start")
        assert sender.deliver_next()
        (delivery,) = log_of(service, new)
        # Sent once more: the receiver recognizes the id.
        service.write(webhooks.redeliver, service.project, new.webhook.id, delivery.id)
        assert sender.deliver_next()
    finally:
        process.kill()
        process.wait(20)

    assert [entry["status"] for entry in log_of(service, new)[0].attempts] == [204, 204]
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert line.startswith("job.created")
    assert job.id in line


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
