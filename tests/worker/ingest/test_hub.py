"""Datasets from a stand-in of the Hugging Face hub: TLS on loopback, with redirects to its storage."""

import hashlib
import io
import json
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.settings import Settings
from core.store import datasets
from tests.support.archives import encode_image, make_tar
from tests.worker.conftest import new_service
from worker.claim_loop import run_next
from worker.ingest.parent import DATASETS

COMMIT = "c" * 40
METADATA = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["dark", "light"]}}}}


def shard(start, count=10):
    """A Parquet file in the layout of the hub: encoded images, and labels as numbers."""
    levels = range(start, start + count)
    images = [{"bytes": encode_image(Image.new("L", (8, 8), level)), "path": None} for level in levels]
    table = pa.table({"image": images, "label": [index % 2 for index in range(count)]})
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(METADATA)}), out)
    return out.getvalue()


FILES = {
    "data/train-00000-of-00002.parquet": shard(0),
    "data/train-00001-of-00002.parquet": shard(100),
    "data/test-00000-of-00001.parquet": shard(200),
    "README.md": b"# A dataset",
}


class HubStandIn:
    """Answers listings and redirects downloads to another path, as the hub does to its storage."""

    def __init__(self, tls_server, *, by_revision):
        self.by_revision, self.paths = by_revision, []
        self.port = tls_server(self._handle).port
        self.endpoint = f"https://localhost:{self.port}"

    def _handle(self, connection, request):
        path = unquote(request.split(b" ")[1].decode())
        self.paths.append(path)
        if path.startswith("/api/datasets/o/n/revision/"):
            revision = path.removeprefix("/api/datasets/o/n/revision/").partition("?")[0]
            if revision in self.by_revision:
                return self._send(connection, json.dumps(self._listing(revision)).encode(), "application/json")
        if path.startswith(f"/datasets/o/n/resolve/{COMMIT}/"):
            target = path.replace(f"/datasets/o/n/resolve/{COMMIT}", f"{self.endpoint}/storage")
            return connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
        files = next(iter(self.by_revision.values()))
        content = files.get(path.removeprefix("/storage/"))
        if content is None:
            return connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        return self._send(connection, content, "application/octet-stream")

    def _listing(self, revision):
        siblings = [
            {"rfilename": path, "size": len(content), "lfs": {"sha256": hashlib.sha256(content).hexdigest()}}
            for path, content in self.by_revision[revision].items()
        ]
        return {"sha": COMMIT, "siblings": siblings}

    def _send(self, connection, content, kind):
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nContent-Type: {kind}\r\n\r\n"
        connection.sendall(head.encode() + content)


@pytest.fixture
def ingest(tmp_path, migrated_database, valkey, authority, monkeypatch):
    """Return a function that lets a worker ingest a dataset from a hub."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    services = []

    def run(hub, *, settings=None, **source):
        network = {"fetch_allow": "localhost", "fetch_ports": str(hub.port), "hub_endpoint": hub.endpoint}
        service = new_service(
            Settings(
                home=tmp_path / "home",
                broker_url=valkey,
                control_poll_seconds=0.05,
                heartbeat_seconds=0.1,
                **{**network, **(settings or {})},
            ),
            migrated_database,
        )
        services.append(service)
        document = {"type": "huggingface", "repo": "o/n", "revision": "main", "config": None, "split": None, **source}
        dataset = service.write(datasets.create, service.project, name="hub", source=document)
        run_next(DATASETS)
        return service.read(datasets.get, service.project, dataset.id)

    yield run
    for service in services:
        service.context.database.dispose()
        service.context.broker.close()


def num_samples(dataset):
    return {name: split["num_samples"] for name, split in dataset.splits.items()}


def test_the_parquet_files_of_a_revision_become_a_dataset(ingest, tls_server):
    hub = HubStandIn(tls_server, by_revision={"v1": FILES})
    dataset = ingest(hub, revision="v1")

    assert (dataset.status, dataset.error, dataset.classes) == ("ready", None, ["dark", "light"])
    assert num_samples(dataset) == {"train": 20, "test": 10}
    assert dataset.source["commit"] == COMMIT
    assert not any("README" in path for path in hub.paths)


def test_one_split_gets_a_test_split_of_its_own(ingest, tls_server):
    hub = HubStandIn(tls_server, by_revision={"main": FILES})
    dataset = ingest(hub, split="test")

    assert num_samples(dataset) == {"train": 8, "test": 2}
    assert not any("storage/data/train" in path for path in hub.paths)


def test_the_conversion_of_the_hub_is_used_for_other_formats(ingest, tls_server):
    converted = {"default/train/0000.parquet": shard(0), "default/test/0000.parquet": shard(50)}
    hub = HubStandIn(tls_server, by_revision={"refs/convert/parquet": converted, "main": {"README.md": b"#"}})

    assert num_samples(ingest(hub)) == {"train": 10, "test": 10}


def test_shards_of_a_repository_without_parquet_files_are_read(ingest, tls_server):
    def tar(start, count):
        files = {f"{index}.png": encode_image(Image.new("L", (8, 8), start + index)) for index in range(count)}
        return make_tar(files | {f"{index}.cls": b"%d" % (index % 2) for index in range(count)})

    files = {
        "data/train-000000.tar": tar(0, 6),
        "data/train-000001.tar": tar(50, 6),
        "data/test-000000.tar": tar(90, 4),
    }
    dataset = ingest(HubStandIn(tls_server, by_revision={"main": files}))

    assert (dataset.status, dataset.error, dataset.classes) == ("ready", None, ["0", "1"])
    assert num_samples(dataset) == {"train": 12, "test": 4}


def test_a_file_with_another_hash_fails_the_dataset(ingest, tls_server):
    files = dict(FILES)
    hub = HubStandIn(tls_server, by_revision={"main": files})
    listing = hub._listing("main")
    hub._listing = lambda _revision: listing
    damaged = bytearray(files["data/train-00000-of-00002.parquet"])
    damaged[100] ^= 1
    files["data/train-00000-of-00002.parquet"] = bytes(damaged)
    dataset = ingest(hub)

    assert (dataset.status, dataset.error["code"]) == ("failed", "download_failed")
    assert "sha256" in dataset.error["message"]


@pytest.mark.parametrize(
    ("source", "settings", "code", "message"),
    [
        ({"revision": "gone"}, {}, "download_failed", "Private and gated datasets"),
        ({"split": "dev"}, {}, "hub_dataset_unclear", "choose one of test, train"),
        ({}, {"max_upload_bytes": 2000}, "download_too_large", "choose one split"),
        ({}, {"fetch_allow": ""}, "url_not_allowed", "own host"),
    ],
)
def test_what_cannot_be_fetched_fails_with_a_reason(ingest, tls_server, source, settings, code, message):
    hub = HubStandIn(tls_server, by_revision={"main": FILES})
    dataset = ingest(hub, settings=settings, **source)

    assert (dataset.status, dataset.error["code"]) == ("failed", code)
    assert message in dataset.error["message"]
