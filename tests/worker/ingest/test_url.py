"""Datasets from URLs, fetched by the ingest worker with the system's resolver, real sockets and real TLS."""

import socket

import pytest
from PIL import Image

from core.reporting import Control
from core.settings import Settings
from core.store import datasets
from tests.support.archives import encode_image, make_color_dataset, make_tar
from tests.worker.conftest import new_service
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS


def respond_with(body, *lines):
    head = "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines]).encode()
    return lambda connection, _: connection.sendall(head + b"\r\n\r\n" + body)


@pytest.fixture
def fetch_dataset(tmp_path, migrated_database, valkey, authority, monkeypatch):
    """Return a function that lets a worker fetch a URL and returns the resulting dataset."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    services = []

    def run(url, **settings):
        all_settings = Settings(
            home=tmp_path / "home", broker_url=valkey, control_poll_seconds=0.05, heartbeat_seconds=0.1, **settings
        )
        services.append(new_service(all_settings, migrated_database))
        service = services[-1]
        source = {"type": "url", "url": url, "labels": "auto"}
        dataset = service.write(datasets.create, service.project, name="fetched", source=source)
        run_next(DATASETS)
        assert list((tmp_path / "home" / "work").iterdir()) == []
        return service.read(datasets.get, service.project, dataset.id)

    yield run
    for service in services:
        service.context.database.dispose()
        service.context.broker.close()


def test_an_archive_at_a_url_becomes_a_dataset(fetch_dataset, tls_server):
    server = tls_server(respond_with(make_color_dataset(3)))
    url = f"https://localhost:{server.port}/pets.zip?signature=geheim"
    dataset = fetch_dataset(url, fetch_allow="localhost", fetch_ports=str(server.port))

    assert (dataset.status, dataset.error, dataset.classes) == ("ready", None, ["blue", "red"])
    assert len(server.requests) == 1
    assert "signature=geheim" in str(server.requests[0])
    # The signature is not needed any more, and backups would contain it.
    assert dataset.source["url"] == f"https://localhost:{server.port}/pets.zip?[hidden]"


def test_a_pattern_fetches_all_shards(fetch_dataset, tls_server):
    def send_shard(connection, request):
        number = int(request.split(b".tar")[0][-3:])
        split, first = ("test", 40) if number == 3 else ("train", 10 * number)
        files = {f"{split}/{index}.png": encode_image(Image.new("L", (8, 8), first + index)) for index in range(4)}
        files |= {f"{split}/{index}.cls": b"%d" % (index % 2) for index in range(4)}
        respond_with(make_tar(files))(connection, request)

    server = tls_server(send_shard)
    url = f"https://localhost:{server.port}/pets-{{001..003}}.tar"
    dataset = fetch_dataset(url, fetch_allow="localhost", fetch_ports=str(server.port))

    assert (dataset.status, dataset.error, dataset.classes) == ("ready", None, ["0", "1"])
    assert dataset.splits == {"train": {"num_samples": 8}, "test": {"num_samples": 4}}


def test_a_file_that_is_no_archive_fails_after_its_first_kilobyte(fetch_dataset, tls_server):
    server = tls_server(respond_with(b"x" * 50_000, "Content-Type: application/zip"))
    dataset = fetch_dataset(
        f"https://localhost:{server.port}/x", fetch_allow="127.0.0.0/8,::1,localhost", fetch_ports=str(server.port)
    )

    assert (dataset.status, dataset.error["code"]) == ("failed", "archive_unreadable")


def test_a_drained_worker_releases_a_download(fetch_dataset, tls_server, monkeypatch):
    server = tls_server(respond_with(make_color_dataset(3)))
    run = DATASETS.run
    monkeypatch.setattr(DATASETS, "run", lambda context, row, _control: run(context, row, lambda: Control.DRAIN))
    dataset = fetch_dataset(f"https://localhost:{server.port}/x", fetch_allow="localhost", fetch_ports=str(server.port))

    assert (dataset.status, dataset.worker_losses, dataset.worker_id) == ("processing", 0, None)


def test_a_file_beyond_the_upload_limit_fails_the_dataset(fetch_dataset, tls_server):
    server = tls_server(respond_with(make_color_dataset(3)))
    dataset = fetch_dataset(
        f"https://localhost:{server.port}/x",
        fetch_allow="localhost",
        fetch_ports=str(server.port),
        max_upload_bytes=100,
    )

    assert (dataset.status, dataset.error["code"]) == ("failed", "download_too_large")


def test_an_untrusted_certificate_fails_the_dataset(fetch_dataset, tls_server, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    server = tls_server(respond_with(make_color_dataset(3)))
    dataset = fetch_dataset(f"https://localhost:{server.port}/x", fetch_allow="localhost", fetch_ports=str(server.port))

    assert (dataset.status, dataset.error["code"]) == ("failed", "download_failed")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "2130706433"])
def test_a_loopback_address_is_never_connected_to(fetch_dataset, host):
    """Also without the API's check of the URL: the row may be older, or the API may have other settings."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        port = trap.getsockname()[1]
        dataset = fetch_dataset(f"https://{host}:{port}/x.zip?signature=geheim", fetch_ports=f"443,{port}")
        trap.settimeout(0.05)
        with pytest.raises(TimeoutError):
            trap.accept()

    assert (dataset.status, dataset.error["code"]) == ("failed", "url_not_allowed")
    assert "geheim" not in dataset.error["message"]


def test_a_name_that_resolves_to_loopback_is_not_connected_to(fetch_dataset, monkeypatch):
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with socket.create_server(("127.0.0.1", 0)) as trap:
        port = trap.getsockname()[1]
        dataset = fetch_dataset(f"https://innocent.example:{port}/x.zip", fetch_ports=f"443,{port}")
        trap.settimeout(0.05)
        with pytest.raises(TimeoutError):
            trap.accept()

    assert dataset.error["code"] == "url_not_allowed"
    assert "127.0.0.1" not in dataset.error["message"]
