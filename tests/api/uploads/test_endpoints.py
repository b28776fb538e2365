"""Resumable uploads with the tus protocol, also from its Python client."""

import base64
import hashlib
import io
import os
import socket
from urllib.parse import urlsplit

import httpx
import pytest
from tusclient.client import TusClient

from api.uploads import service
from core.store import datasets, uploads
from core.store.ingest_leases import IngestLeaseToken
from tests.support.archives import make_color_dataset
from tests.support.waiting import until

VERSION = {"Tus-Resumable": "1.0.0"}
STREAM = {**VERSION, "Content-Type": "application/offset+octet-stream"}
CONTENT = os.urandom(300_000)
SIZE = len(CONTENT)


def create(http, size=SIZE, **headers):
    return http.post("/v1/uploads", headers={**VERSION, "Upload-Length": str(size), **headers})


def append(http, upload_id, content, offset=0, **headers):
    return http.patch(
        f"/v1/uploads/{upload_id}", content=content, headers={**STREAM, "Upload-Offset": str(offset), **headers}
    )


def offset_of(http, upload_id):
    return int(http.head(f"/v1/uploads/{upload_id}", headers=VERSION).headers["Upload-Offset"])


def stored_content(tenant, upload_id):
    with tenant.database.read() as session:
        parts = uploads.list_parts(session, upload_id)
    return b"".join(chunk for part in parts for chunk in tenant.server.store.open(part.key))


def stored_keys(tenant, upload_id):
    return [listed.key for listed in tenant.server.store.list_prefix(f"uploads/{upload_id}")]


@pytest.fixture
def tus(tenant):
    """The Python client of the protocol."""
    return TusClient(f"{tenant.server.url}/v1/uploads", headers={"Authorization": f"Bearer {tenant.token}"})


def test_the_tus_client_sends_a_file_in_chunks(tenant, http, tus):
    options = {"chunk_size": 70_000, "metadata": {"filename": "pets.zip"}, "upload_checksum": True}
    uploader = tus.uploader(file_stream=io.BytesIO(CONTENT), **options)
    uploader.upload()
    upload_id = uploader.url.rsplit("/", 1)[1]
    shown = http.get(f"/v1/uploads/{upload_id}").json()

    assert (shown["status"], shown["filename"], shown["size_bytes"]) == ("complete", "pets.zip", SIZE)
    assert stored_content(tenant, upload_id) == CONTENT
    assert http.get("/v1/uploads").json()["data"] == [shown]


def test_the_tus_client_resumes_where_another_one_stopped(tenant, tus):
    first = tus.uploader(file_stream=io.BytesIO(CONTENT), chunk_size=100_000)
    first.upload(stop_at=200_000)
    second = tus.uploader(file_stream=io.BytesIO(CONTENT), url=first.url)
    assert second.offset == 200_000
    second.upload()

    assert stored_content(tenant, first.url.rsplit("/", 1)[1]) == CONTENT


def test_bytes_before_a_broken_connection_count(tenant, http):
    upload_id = create(http).json()["id"]
    address = urlsplit(tenant.server.url)
    head = (
        f"PATCH /v1/uploads/{upload_id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.token}\r\n"
        f"Tus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\nContent-Type: {STREAM['Content-Type']}\r\n"
        f"Content-Length: {len(CONTENT)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + CONTENT[:123_456])
    until(lambda: offset_of(http, upload_id) > 0, 10, "nothing was stored")
    offset = offset_of(http, upload_id)
    assert append(http, upload_id, CONTENT[offset:], offset).status_code == 204

    assert stored_content(tenant, upload_id) == CONTENT


def test_a_long_request_is_stored_in_parts(tenant, http, monkeypatch):
    monkeypatch.setattr(service, "PART_BYTES", 100_000)
    upload_id = create(http).json()["id"]
    append(http, upload_id, CONTENT)

    assert len(stored_keys(tenant, upload_id)) >= 2
    assert stored_content(tenant, upload_id) == CONTENT


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_bytes_with_another_checksum_are_not_added(tenant, http, algorithm, monkeypatch):
    monkeypatch.setattr(service, "PART_BYTES", 100_000)
    upload_id = create(http).json()["id"]
    digest = base64.b64encode(hashlib.new(algorithm, CONTENT).digest()).decode()
    damaged = append(http, upload_id, CONTENT[:-1] + b"x", **{"Upload-Checksum": f"{algorithm} {digest}"})

    assert (damaged.status_code, damaged.json()["code"]) == (460, "checksum_mismatch")
    assert (offset_of(http, upload_id), stored_keys(tenant, upload_id)) == (0, [])
    assert append(http, upload_id, CONTENT, **{"Upload-Checksum": f"{algorithm} {digest}"}).status_code == 204
    assert stored_content(tenant, upload_id) == CONTENT


def test_the_loser_of_two_requests_leaves_nothing(tenant, http):
    """Two clients send the same bytes at once; the one that is stored later finds the upload at another offset."""
    upload_id = create(http).json()["id"]
    state = tenant.server.app.state.app_state
    stale = service.open_for_append(state, tenant.project_id, upload_id, 0)
    append(http, upload_id, CONTENT[:1000])
    receiver = service.Receiver(state, None, stale, None)
    receiver._append(CONTENT[:2000])
    with pytest.raises(uploads.UploadOffsetMismatch):
        receiver._finish()

    assert offset_of(http, upload_id) == 1000
    assert stored_content(tenant, upload_id) == CONTENT[:1000]


def test_invalid_requests_are_refused(http, server):
    upload_id = create(http).json()["id"]
    wrong_type = {"Content-Type": "application/zip"}
    cases = [
        (create(http, **{"Tus-Resumable": "0.2.2"}), 412, "tus_version_unsupported"),
        (create(http, size=0), 422, "invalid_request"),
        (create(http, size=server.settings.max_upload_bytes + 1), 413, "payload_too_large"),
        (create(http, **{"Upload-Metadata": "filename not-base-64!"}), 422, "invalid_request"),
        (http.post("/v1/uploads", headers=VERSION), 422, "invalid_request"),
        (append(http, upload_id, b"x", 5), 409, "upload_offset_mismatch"),
        (append(http, upload_id, CONTENT + b"x"), 422, "invalid_request"),
        (append(http, upload_id, b"x", **wrong_type), 415, "unsupported_media_type"),
        (append(http, upload_id, b"x", **{"Upload-Checksum": "md5 AAAA"}), 422, "invalid_request"),
        (append(http, upload_id, b"x", **{"Tus-Resumable": "2"}), 412, "tus_version_unsupported"),
        (append(http, "up_" + "0" * 26, b"x"), 404, "not_found"),
    ]

    assert [(response.status_code, response.json()["code"]) for response, _, _ in cases] == [
        (status, code) for _, status, code in cases
    ]
    assert {response.headers["Tus-Resumable"] for response, _, _ in cases} == {"1.0.0"}
    assert offset_of(http, upload_id) == 0


def test_the_options_name_version_extensions_and_limit(http, server):
    headers = http.options("/v1/uploads").headers

    assert headers["Tus-Version"] == "1.0.0"
    assert {"creation", "termination", "checksum"} <= set(headers["Tus-Extension"].split(","))
    assert headers["Tus-Max-Size"] == str(server.settings.max_upload_bytes)


def test_uploads_count_as_stored_bytes_until_they_are_deleted(tenant, http):
    upload_id = create(http).json()["id"]
    append(http, upload_id, CONTENT)
    assert http.get("/v1/usage").json()["stored_bytes"]["used"] == len(CONTENT)
    assert http.delete(f"/v1/uploads/{upload_id}", headers=VERSION).status_code == 204

    assert http.get("/v1/usage").json()["stored_bytes"]["used"] == 0
    assert http.head(f"/v1/uploads/{upload_id}").status_code == 404
    assert stored_keys(tenant, upload_id) == []


def test_quotas_limit_uploads(make_server, make_tenant):
    tenant = make_tenant(on=make_server(quota_uploads=2, quota_stored_bytes=1000))
    first = create(tenant.http).json()["id"]
    assert append(tenant.http, first, CONTENT[:1001]).status_code == 204
    full = (append(tenant.http, first, b"x", 1001), create(tenant.http))
    assert [(response.status_code, response.json()["quota"]) for response in full] == [(403, "stored_bytes")] * 2
    tenant.http.delete(f"/v1/uploads/{first}", headers=VERSION)

    created = [create(tenant.http) for _ in range(3)]
    assert [response.status_code for response in created] == [201, 201, 403]
    assert created[2].json()["quota"] == "uploads"


def test_a_dataset_is_made_from_a_complete_upload(tenant, http):
    archive = make_color_dataset(3)
    metadata = f"filename {base64.b64encode(b'colors.zip').decode()}"
    upload_id = create(http, size=len(archive), **{"Upload-Metadata": metadata}).json()["id"]
    source = {"type": "upload", "upload": upload_id}
    early = http.post("/v1/datasets", json={"source": source})
    assert (early.status_code, early.json()["errors"][0]["pointer"]) == (422, "/source/upload")
    assert "0 of" in early.json()["detail"]

    append(http, upload_id, archive)
    response = http.post("/v1/datasets", json={"source": source})
    dataset = response.json()
    assert (response.status_code, dataset["name"], dataset["status"]) == (202, "colors", "processing")
    assert {name: dataset["source"][name] for name in source} == source
    assert dataset["source"]["filename"] == "colors.zip"
    in_use = http.delete(f"/v1/uploads/{upload_id}", headers=VERSION)
    assert (in_use.status_code, in_use.json()["code"]) == (409, "in_use")
    with tenant.database.write() as session:
        row = datasets.get(session, tenant.project_id, dataset["id"])
        row.worker_id, row.attempt = "wrk_test", 1
        session.flush()
        datasets.fail(session, IngestLeaseToken(row.id, 1), {"code": "layout_unclear", "message": "…"})
    assert http.post("/v1/datasets", json={"source": {**source, "splits": "none"}}).status_code == 202


@pytest.mark.parametrize("upload_id", ["up_" + "0" * 26, "pets"])
def test_an_unknown_upload_names_the_field(http, upload_id):
    response = http.post("/v1/datasets", json={"source": {"type": "upload", "upload": upload_id}})

    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (422, "/source/upload")


def test_a_file_of_another_type_makes_no_dataset_and_no_model(http):
    upload_id = create(http).json()["id"]
    append(http, upload_id, CONTENT)
    responses = (
        http.post("/v1/datasets", json={"source": {"type": "upload", "upload": upload_id}}),
        http.post("/v1/models", json={"architecture": "resnet18", "upload": upload_id}),
    )

    assert [response.status_code for response in responses] == [415, 415]


def test_a_model_is_made_from_a_complete_upload(http):
    import torch
    from safetensors.torch import save

    weights = save({"weight": torch.zeros(200, 200)})
    upload_id = create(http, size=len(weights)).json()["id"]
    append(http, upload_id, weights)
    response = http.post("/v1/models", json={"architecture": "resnet18", "upload": upload_id, "name": "big"})

    assert (response.status_code, response.json()["name"], response.json()["status"]) == (202, "big", "processing")
    assert http.delete(f"/v1/uploads/{upload_id}").status_code == 409


def test_uploads_are_stored_in_a_bucket(make_server, make_tenant, bucket, monkeypatch):
    monkeypatch.setattr(service, "PART_BYTES", 100_000)
    tenant = make_tenant(on=make_server(storage_url=f"s3://{bucket}/potstill"))
    upload_id = create(tenant.http).json()["id"]
    append(tenant.http, upload_id, CONTENT[:150_000])
    append(tenant.http, upload_id, CONTENT[150_000:], 150_000)

    assert stored_content(tenant, upload_id) == CONTENT
    assert tenant.http.delete(f"/v1/uploads/{upload_id}", headers=VERSION).status_code == 204
    assert stored_keys(tenant, upload_id) == []


def test_a_whole_file_is_sent_directly_to_the_bucket(make_server, make_tenant, bucket):
    server = make_server(storage_url=f"s3://{bucket}/potstill", direct_url_seconds=60)
    tenant = make_tenant(on=server)
    path = f"/v1/uploads/{create(tenant.http).json()['id']}"
    direct = tenant.http.post(f"{path}/direct").json()
    done = {"sha256": hashlib.sha256(CONTENT).hexdigest()}
    early = tenant.http.post(f"{path}/complete", json=done)
    assert (early.status_code, "no file" in early.json()["detail"]) == (422, True)
    assert httpx.put(direct["url"], content=CONTENT, trust_env=False).status_code == 200
    complete = tenant.http.post(f"{path}/complete", json=done).json()

    assert (complete["status"], complete["received_bytes"]) == ("complete", SIZE)
    assert stored_content(tenant, complete["id"]) == CONTENT
    assert tenant.http.post(f"{path}/complete", json=done).status_code == 409


def test_direct_transfers_need_a_bucket_and_a_setting(make_server, make_tenant, http, bucket):
    off = make_tenant(on=make_server(storage_url=f"s3://{bucket}/potstill")).http
    for client in (http, off):
        response = client.post(f"/v1/uploads/{create(client).json()['id']}/direct")
        assert (response.status_code, response.json()["code"]) == (422, "direct_transfer_unavailable")


def test_an_artifact_is_downloaded_directly_from_the_bucket(make_server, make_tenant, bucket, tmp_path):
    tenant = make_tenant(on=make_server(storage_url=f"s3://{bucket}/potstill", direct_url_seconds=60))
    lease = tenant.running_job()
    contents = tenant.succeed(lease, tmp_path)
    response = tenant.http.get(f"/v1/jobs/{lease.job_id}/artifact-urls/config.json")
    assert response.status_code == 200, response.text
    direct = response.json()
    content = httpx.get(direct["url"], trust_env=False).content

    assert content == contents["config.json"]
    assert hashlib.sha256(content).hexdigest() == direct["sha256"]
