"""Datasets from URLs, as the ingest worker fetches them: the system's resolver, real sockets, real TLS."""

import io
import socket
import zipfile

import pytest
from PIL import Image

from core.reporting import Control
from core.settings import Settings
from core.store import datasets
from tests.worker.conftest import new_service
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS


def archive():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for split in ("train", "test"):
            for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
                for k in range(3):
                    picture = io.BytesIO()
                    Image.new("RGB", (8, 8), tuple(min(255, c + k) for c in colour)).save(picture, "PNG")
                    packed.writestr(f"{split}/{name}/{k}.png", picture.getvalue())
    return out.getvalue()


def sending(body, *lines):
    head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines]).encode()
    return lambda connection, _: connection.sendall(head + b"\r\n\r\n" + body)


@pytest.fixture
def fetched(tmp_path, template, valkey, authority, monkeypatch):
    """Let a worker fetch a URL; the dataset as it is then, and its service."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    services = []

    def run(url, **settings):
        known = Settings(
            home=tmp_path / "home", broker_url=valkey, control_poll_seconds=0.05, heartbeat_seconds=0.1, **settings
        )
        services.append(new_service(known, template))
        service = services[-1]
        source = {"type": "url", "url": url, "labels": "auto"}
        dataset = service.do(datasets.create, service.project, name="fetched", source=source)
        run_next(DATASETS)
        assert list((tmp_path / "home" / "work").iterdir()) == []
        return service.ask(datasets.get, service.project, dataset.id)

    yield run
    for service in services:
        service.context.database.dispose()
        service.context.broker.close()


def test_an_archive_behind_an_address_becomes_a_dataset(fetched, tls_server):
    server = tls_server(sending(archive()))
    url = f"https://localhost:{server.port}/pets.zip?signature=geheim"
    dataset = fetched(url, fetch_allow="localhost", fetch_ports=str(server.port))

    assert (dataset.status, dataset.error, dataset.classes) == ("ready", None, ["blue", "red"])
    assert len(server.requests) == 1
    assert "signature=geheim" in str(server.requests[0])
    # It is needed no more, and would be in every backup.
    assert dataset.source["url"] == f"https://localhost:{server.port}/pets.zip?[hidden]"


def test_what_is_no_archive_fails_the_dataset_after_its_first_kilobyte(fetched, tls_server):
    server = tls_server(sending(b"x" * 50_000, "Content-Type: application/zip"))
    dataset = fetched(
        f"https://localhost:{server.port}/x", fetch_allow="127.0.0.0/8,::1,localhost", fetch_ports=str(server.port)
    )

    assert (dataset.status, dataset.error["code"]) == ("failed", "archive_unreadable")


def test_a_drained_worker_hands_a_download_back(fetched, tls_server, monkeypatch):
    server = tls_server(sending(archive()))
    run = DATASETS.run
    monkeypatch.setattr(DATASETS, "run", lambda context, row, _control: run(context, row, lambda: Control.DRAIN))
    dataset = fetched(f"https://localhost:{server.port}/x", fetch_allow="localhost", fetch_ports=str(server.port))

    assert (dataset.status, dataset.worker_losses, dataset.worker_id) == ("processing", 0, None)


def test_a_file_larger_than_uploads_may_be_fails_the_dataset(fetched, tls_server):
    server = tls_server(sending(archive()))
    dataset = fetched(
        f"https://localhost:{server.port}/x",
        fetch_allow="localhost",
        fetch_ports=str(server.port),
        max_upload_bytes=100,
    )

    assert (dataset.status, dataset.error["code"]) == ("failed", "download_too_large")


def test_a_certificate_that_nobody_trusts_fails_the_dataset(fetched, tls_server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    server = tls_server(sending(archive()))
    dataset = fetched(f"https://localhost:{server.port}/x", fetch_allow="localhost", fetch_ports=str(server.port))

    assert (dataset.status, dataset.error["code"]) == ("failed", "download_failed")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "2130706433"])
def test_this_machine_is_never_connected_to(fetched, host):
    """Also where the API's own look at the URL was passed by: an older row, or another setting there."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        port = trap.getsockname()[1]
        dataset = fetched(f"https://{host}:{port}/x.zip?signature=geheim", fetch_ports=f"443,{port}")
        trap.settimeout(0.05)
        with pytest.raises(TimeoutError):
            trap.accept()

    assert (dataset.status, dataset.error["code"]) == ("failed", "url_not_allowed")
    assert "geheim" not in dataset.error["message"]


def test_a_name_of_this_machine_is_looked_up_and_not_connected_to(fetched, monkeypatch):
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with socket.create_server(("127.0.0.1", 0)) as trap:
        port = trap.getsockname()[1]
        dataset = fetched(f"https://innocent.example:{port}/x.zip", fetch_ports=f"443,{port}")
        trap.settimeout(0.05)
        with pytest.raises(TimeoutError):
            trap.accept()

    assert dataset.error["code"] == "url_not_allowed"
    assert "127.0.0.1" not in dataset.error["message"]
